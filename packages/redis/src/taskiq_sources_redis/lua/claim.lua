-- Takes what may be claimed, the oldest first. ARGV: now, now + early, limit; lease_until, and the lease as the beginning of a
-- record; the ids, or "" for all. Returns 1 if it has stopped before, because the answer is large enough; and ids, records, documents.
-- If the lease is "", it takes nothing, and returns next_run_at and id of each.
local now, due_by, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local lease_until, lease, packed_ids = ARGV[4], ARGV[5], ARGV[6]

-- More ended leases than this sort themselves in over the next calls. So many are in flight after a crash of several schedulers.
local MOST_ENDED = 10000

-- Gives what ended leases held back its place in the order of due times.
local function return_ended()
  local ids = redis.call("ZRANGEBYSCORE", LEASED, "-inf", due_by, "LIMIT", 0, MOST_ENDED)
  for i, record in ipairs(values_of(STATE, ids)) do
    if not record or not holds_others_off(record, now) then
      remove(ZREM, LEASED, ids[i])
      if record then write(ZADD, DUE, next_run_at_of(record), ids[i]) end
    end
  end
  commit()
end

-- The oldest of all: the first of DUE.
local function oldest()
  return_ended()
  local ids, records
  repeat
    local is_whole = true
    ids = redis.call("ZRANGEBYSCORE", DUE, "-inf", due_by, "LIMIT", 0, limit)
    records = values_of(STATE, ids)
    for i, record in ipairs(records) do
      if not record or holds_others_off(record, now) then -- returned by a caller whose clock is ahead of ours
        is_whole = false
        remove(ZREM, DUE, ids[i])
        if record then write(ZADD, LEASED, later(next_run_at_of(record), lease_until_of(record)), ids[i]) end
      end
    end
    commit()
  until is_whole
  return ids, records
end

-- The oldest among `given`.
local function oldest_among(given)
  local entries = {}
  for i, record in ipairs(values_of(STATE, given)) do
    if record and not holds_others_off(record, now) then
      local _, _, paused, _, _, next_run_at, quarantined = deciding(record)
      local due = tonumber(next_run_at)
      if due and due <= due_by and quarantined == "false" and paused == "false" then
        entries[#entries + 1] = { given[i], record, due }
      end
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

local ids, records
if packed_ids == "" then ids, records = oldest() else ids, records = oldest_among(split(packed_ids)) end

if lease == "" then
  local offer = {}
  for i, id in ipairs(ids) do offer[i] = { tonumber(next_run_at_of(records[i])), id } end
  return offer
end

local PIECES = "^[^\n]+,\n[^\n]+,\n[^\n]+,\n()%a+,\n%d+,\n%d+,\n()(%d+)()"
local documents = documents_of(ids)
if packed_ids == "" and #ids > 0 then redis.call("ZREMRANGEBYRANK", DUE, 0, #documents - 1) end
for i = 1, #documents do
  local id, record = ids[i], records[i]
  if packed_ids ~= "" then remove(ZREM, lease_until_of(record) and LEASED or DUE, id) end
  local definition, progress, attempt, rest = match(record, PIECES)
  records[i] = lease .. sub(record, definition, progress - 1) .. increased(attempt) .. sub(record, rest)
  write(ZADD, LEASED, tonumber(lease_until) >= due_by and lease_until or later(next_run_at_of(record), lease_until), id)
  write(HSET, STATE, id, records[i])
end
commit()
return { #documents < #ids and 1 or 0, unpack(reply_of(ids, records, documents)) }
