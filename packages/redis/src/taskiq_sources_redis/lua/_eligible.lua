-- What may be claimed; put in front of claim.lua and peek.lua. The instants are milliseconds since the epoch.

-- More ended leases than this sort themselves in over the next calls. So many are in flight after a crash of several schedulers.
local MOST_ENDED = 10000

local function holds_others_off(record, now)
  return has_lease(record) and lease_until_of(record) > now
end

-- Gives what ended leases held back its place in the order of due times.
local function return_ended(now, due_by)
  local ids = redis.call("ZRANGEBYSCORE", LEASED, "-inf", due_by, "LIMIT", 0, MOST_ENDED)
  for i, record in ipairs(values_of(STATE, ids)) do
    if not record or not holds_others_off(record, now) then
      remove("ZREM", LEASED, ids[i])
      if record then write("ZADD", DUE, next_run_at_of(record), ids[i]) end
    end
  end
  commit()
end

-- The oldest of all: the first of DUE.
local function oldest(now, due_by, limit)
  return_ended(now, due_by)
  local ids, records
  repeat
    local is_whole = true
    ids = redis.call("ZRANGEBYSCORE", DUE, "-inf", due_by, "LIMIT", 0, limit)
    records = values_of(STATE, ids)
    for i, record in ipairs(records) do
      if not record or holds_others_off(record, now) then -- returned by a caller whose clock is ahead of ours
        is_whole = false
        remove("ZREM", DUE, ids[i])
        if record then write("ZADD", LEASED, math.max(next_run_at_of(record), lease_until_of(record)), ids[i]) end
      end
    end
    commit()
  until is_whole
  return ids, records
end

-- The oldest among `given`.
local function oldest_among(given, now, due_by, limit)
  local entries = {}
  for i, record in ipairs(values_of(STATE, given)) do
    if record and is_active(record) and next_run_at_of(record) <= due_by and not holds_others_off(record, now) then
      entries[#entries + 1] = { given[i], record, next_run_at_of(record) }
    end
  end
  if #entries > limit then
    local keys = {}
    for _, entry in ipairs(entries) do keys[entry[1]] = sort_key(entry[1]) end
    table.sort(entries, function(a, b)
      if a[3] ~= b[3] then return a[3] < b[3] end
      return keys[a[1]] < keys[b[1]]
    end)
  end
  local ids, records = {}, {}
  for i = 1, math.min(limit, #entries) do ids[i], records[i] = entries[i][1], entries[i][2] end
  return ids, records
end

-- ARGV of both: now, now + early, limit. `packed_ids` is "" for all. Returns ids and records.
local function eligible(packed_ids)
  local now, due_by, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
  if packed_ids == "" then return oldest(now, due_by, limit) end
  return oldest_among(split(packed_ids), now, due_by, limit)
end
