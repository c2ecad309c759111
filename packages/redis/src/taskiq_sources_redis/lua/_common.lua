-- What the operations share; put in front of each of them. A shard is nine keys with one hash tag, always given in this order:
local STATE = KEYS[1]       -- hash: id -> packed record, everything but the document
local DOCUMENTS = KEYS[2]   -- hash: id -> document; apart, so that claims and settles do not rewrite it
local DUE = KEYS[3]         -- sorted set: what may be claimed, by next_run_at
local LEASED = KEYS[4]      -- sorted set: what is claimed, by the instant from which it may be claimed again
local PARKED = KEYS[5]      -- sorted set: what is pending but paused or quarantined, by next_run_at
local INDEX = KEYS[6]       -- sorted set of equal scores: kind .. id, in the order of bytes; kinds are in index_of()
local RUNS = KEYS[7]        -- hash: occurrence id -> packed history row
local RUNS_INDEX = KEYS[8]  -- sorted set of equal scores: kind .. time .. occurrence id; kinds are in index_of_run()
local META = KEYS[9]        -- hash: version of this layout, number of shards

local NEVER = math.huge      -- next_run_at and scheduled_for of what is not pending
local UNLEASED = -math.huge  -- lease_until of what nobody has claimed
local CHUNK = 1000           -- most members that one command is given: Lua passes at most some 8,000 arguments

-- Same layout as _STATE in records.py: instants, counters, flags, then texts with their lengths.
local LAYOUT = "<ddddddI4I4I4I4I4BBI4c0I4c0I4c0I4c0I4c0I4c0"

local function decode(record)
  local next_run_at, lease_until, scheduled_for, anchor, created_at, updated_at, attempt, coalesced, run_count, revision,
    timing_revision, paused, quarantined, token, claimant, last_error, timing, owner, task_name = struct.unpack(LAYOUT, record)
  return {
    next_run_at = next_run_at, lease_until = lease_until, scheduled_for = scheduled_for, anchor = anchor,
    created_at = created_at, updated_at = updated_at, attempt = attempt, coalesced = coalesced, run_count = run_count,
    revision = revision, timing_revision = timing_revision, paused = paused, quarantined = quarantined, token = token,
    claimant = claimant, last_error = last_error, timing = timing, owner = owner, task_name = task_name,
  }
end

local function encode(r)
  return struct.pack(LAYOUT, r.next_run_at, r.lease_until, r.scheduled_for, r.anchor, r.created_at, r.updated_at, r.attempt,
    r.coalesced, r.run_count, r.revision, r.timing_revision, r.paused, r.quarantined, #r.token, r.token, #r.claimant,
    r.claimant, #r.last_error, r.last_error, #r.timing, r.timing, #r.owner, r.owner, #r.task_name, r.task_name)
end

-- Values of a hash, false where there is none, in the order of `fields`.
local function values_of(hash, fields)
  local values = {}
  for first = 1, #fields, CHUNK do
    local last = math.min(first + CHUNK - 1, #fields)
    for i, value in ipairs(redis.call("HMGET", hash, unpack(fields, first, last))) do
      values[first + i - 1] = value
    end
  end
  return values
end

-- Writes are collected, so that a batch is a few commands. What is taken away goes before what is put there: so a member can move
-- within a set, and claims and settles work when the memory is full, because Redis refuses a script for that at its first write only.
local WRITES = { "ZREM", "HDEL", "HSET", "ZADD" }
local collected = { ZREM = {}, HDEL = {}, HSET = {}, ZADD = {} }

local function flush()
  for _, command in ipairs(WRITES) do
    for key, arguments in pairs(collected[command]) do
      redis.call(command, key, unpack(arguments))
    end
    collected[command] = {}
  end
end

local function write(command, key, first, second)
  local arguments = collected[command][key]
  if not arguments then
    arguments = {}
    collected[command][key] = arguments
  elseif #arguments >= 2 * CHUNK then
    flush()
    arguments = {}
    collected[command][key] = arguments
  end
  arguments[#arguments + 1] = first
  arguments[#arguments + 1] = second
end

-- The instant from which a leased schedule may be claimed again.
local function free_at(r)
  return math.max(r.next_run_at, r.lease_until)
end

-- Puts a schedule into the one set that it belongs to now, if any. `is_new`: it is in none of them yet.
local function place(id, r, is_new)
  local set, score = nil, r.next_run_at
  if r.next_run_at == NEVER then
    set = nil
  elseif r.paused ~= 0 or r.quarantined ~= 0 then
    set = PARKED
  elseif r.lease_until ~= UNLEASED then
    set, score = LEASED, free_at(r)
  else
    set = DUE
  end
  if not is_new then
    if set ~= DUE then write("ZREM", DUE, id) end
    if set ~= LEASED then write("ZREM", LEASED, id) end
    if set ~= PARKED then write("ZREM", PARKED, id) end
  end
  if set then write("ZADD", set, score, id) end
end

-- Names in the index have one length, so that a long one costs no more; who reads compares the record too.
local digests = {}
local function digest(text)
  if not digests[text] then digests[text] = string.sub(redis.sha1hex(text), 1, 10) end
  return digests[text]
end

-- Members of INDEX: i all, t of a task, o of an owner, p paused, q quarantined.
local function index_of(id, r)
  local members = { "i" .. id, "t" .. digest(r.task_name) .. id }
  if r.owner ~= "" then members[#members + 1] = "o" .. digest(r.owner) .. id end
  if r.paused ~= 0 then members[#members + 1] = "p" .. id end
  if r.quarantined ~= 0 then members[#members + 1] = "q" .. id end
  return members
end

-- Keeps INDEX up; `before` is what index_of() said before the change, nothing for a new schedule.
local function reindex(id, r, before)
  local after = index_of(id, r)
  if before and table.concat(before) == table.concat(after) then return end
  for _, member in ipairs(before or {}) do write("ZREM", INDEX, member) end
  for _, member in ipairs(after) do write("ZADD", INDEX, 0, member) end
end

local function drop(id, r)
  write("HDEL", STATE, id)
  write("HDEL", DOCUMENTS, id)
  write("ZREM", DUE, id)
  write("ZREM", LEASED, id)
  write("ZREM", PARKED, id)
  for _, member in ipairs(index_of(id, r)) do write("ZREM", INDEX, member) end
end

-- Members of RUNS_INDEX: r all, s of a schedule, and F, M, U of each status but the usual one. A row begins with its time (15
-- digits), its status (one letter) and the digest of its schedule's id (10), see pack_run() in records.py.
local function index_of_run(occurrence_id, row)
  local place_in_time = string.sub(row, 1, 15) .. occurrence_id
  local status = string.sub(row, 16, 16)
  local members = { "r" .. place_in_time, "s" .. string.sub(row, 17, 26) .. place_in_time }
  if status ~= "S" then members[3] = status .. place_in_time end
  return members
end

-- Bytes as digits: Lua compares text by the server's locale, in which digits alone are safe.
local function sort_key(text)
  return (string.gsub(text, ".", function(byte) return string.format("%03d", string.byte(byte)) end))
end

-- Sorts {id, r, ...} by next_run_at, equal ones by id.
local function sort_by_age(entries)
  local keys = {}
  local function key(id)
    if not keys[id] then keys[id] = sort_key(id) end
    return keys[id]
  end
  table.sort(entries, function(a, b)
    if a[2].next_run_at ~= b[2].next_run_at then return a[2].next_run_at < b[2].next_run_at end
    return key(a[1]) < key(b[1])
  end)
end
