-- What may be claimed; put in front of claim.lua and peek.lua. The instants are milliseconds since the epoch.

-- More ended leases than this sort themselves in over the next calls. So many are in flight after a crash of several schedulers.
local MOST_ENDED = 10000

-- Gives what ended leases held back its place in the order of due times.
local function return_ended(now, due_by)
  local ids = redis.call("ZRANGEBYSCORE", LEASED, "-inf", due_by, "LIMIT", 0, MOST_ENDED)
  for i, record in ipairs(values_of(STATE, ids)) do
    local r = record and decode(record)
    if not r or r.lease_until <= now then write("ZREM", LEASED, ids[i]) end
    if r and r.lease_until <= now then write("ZADD", DUE, r.next_run_at, ids[i]) end
  end
  flush()
end

local function is_eligible(r, now, due_by)
  return r.paused == 0 and r.quarantined == 0 and r.next_run_at <= due_by and r.lease_until <= now
end

-- The oldest of all: {id, r} each.
local function oldest(now, due_by, limit)
  return_ended(now, due_by)
  local found, stale
  repeat
    found, stale = {}, false
    local ids = redis.call("ZRANGEBYSCORE", DUE, "-inf", due_by, "LIMIT", 0, limit)
    for i, record in ipairs(values_of(STATE, ids)) do
      local r = record and decode(record)
      if r and is_eligible(r, now, due_by) then
        found[#found + 1] = { ids[i], r }
      else -- returned by a caller whose clock is ahead of ours (or the server has lost the record)
        stale = true
        write("ZREM", DUE, ids[i])
        if r then place(ids[i], r) end
      end
    end
    flush()
  until not stale
  return found
end

-- The oldest among `ids`.
local function oldest_among(ids, now, due_by, limit)
  local found = {}
  for i, record in ipairs(values_of(STATE, ids)) do
    local r = record and decode(record)
    if r and is_eligible(r, now, due_by) then
      found[#found + 1] = { ids[i], r }
    end
  end
  sort_by_age(found)
  for i = #found, limit + 1, -1 do found[i] = nil end
  return found
end

-- ARGV of both: now, now + early, limit, "all" or "ids"; the ids are in `ids`.
local function eligible(ids)
  local now, due_by, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
  if ARGV[4] == "all" then return oldest(now, due_by, limit) end
  return oldest_among(ids, now, due_by, limit)
end
