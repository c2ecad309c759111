-- What may be claimed; put in front of claim.lua and peek.lua. The instants are milliseconds since the epoch.

-- More ended leases than this sort themselves in over the next calls. So many are in flight after a crash of several schedulers.
local MOST_ENDED = 10000

-- Gives what ended leases held back its place in the order of due times.
local function return_ended(now, due_by)
  local ids = redis.call("ZRANGEBYSCORE", LEASED, "-inf", due_by, "LIMIT", 0, MOST_ENDED)
  if #ids == 0 then return end
  local records = values_of(STATE, ids)
  for i, lease in ipairs(values_of(LEASES, ids)) do
    if not records[i] or not lease or lease_until_of(lease) <= now then
      remove(LEASED, ids[i])
      if records[i] then add(DUE, next_run_at_of(records[i]), ids[i]) end
    end
  end
  move()
end

-- The oldest of all.
local function oldest(now, due_by, limit)
  return_ended(now, due_by)
  local ids, due_times, leases
  repeat
    ids, due_times = {}, {}
    local found = redis.call("ZRANGEBYSCORE", DUE, "-inf", due_by, "WITHSCORES", "LIMIT", 0, limit)
    for i = 1, #found, 2 do
      ids[#ids + 1] = found[i]
      due_times[#due_times + 1] = tonumber(found[i + 1])
    end
    local is_whole = true
    -- Where there are no more leases than leased schedules, nothing that is due has one.
    leases = redis.call("HLEN", LEASES) ~= redis.call("ZCARD", LEASED) and values_of(LEASES, ids) or {}
    for i, id in ipairs(ids) do
      local lease = leases[i]
      if lease and lease_until_of(lease) > now then -- returned by a caller whose clock is ahead of ours
        is_whole = false
        remove(DUE, id)
        add(LEASED, math.max(due_times[i], lease_until_of(lease)), id)
      end
    end
    move()
  until is_whole
  return ids, due_times, leases
end

-- The oldest among `given`.
local function oldest_among(given, now, due_by, limit)
  local records, leases = values_of(STATE, given), values_of(LEASES, given)
  local entries = {}
  for i, record in ipairs(records) do
    local lease = leases[i]
    if record and is_active(record) and next_run_at_of(record) <= due_by and (not lease or lease_until_of(lease) <= now) then
      entries[#entries + 1] = { given[i], next_run_at_of(record), lease }
    end
  end
  if #entries > limit then
    local keys = {}
    for _, entry in ipairs(entries) do keys[entry[1]] = sort_key(entry[1]) end
    table.sort(entries, function(a, b)
      if a[2] ~= b[2] then return a[2] < b[2] end
      return keys[a[1]] < keys[b[1]]
    end)
  end
  local ids, due_times, held = {}, {}, {}
  for i = 1, math.min(limit, #entries) do ids[i], due_times[i], held[i] = entries[i][1], entries[i][2], entries[i][3] end
  return ids, due_times, held
end

-- ARGV of both: now, now + early, limit, "all" or "ids"; the ids are in ARGV from `first` on.
-- Returns ids, their due times, and their ended leases (false where there is none).
local function eligible(first)
  local now, due_by, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
  if ARGV[4] == "all" then return oldest(now, due_by, limit) end
  local given = {}
  for i = first, #ARGV do given[#given + 1] = ARGV[i] end
  return oldest_among(given, now, due_by, limit)
end
