-- What the operations share; put in front of each of them. A shard is ten keys with one hash tag, always given in this order:
local STATE = KEYS[1]       -- hash: id -> packed record, everything but the document and the lease
local DOCUMENTS = KEYS[2]   -- hash: id -> document; apart, so that claims and settles do not rewrite it
local LEASES = KEYS[3]      -- hash: id -> packed lease of what is claimed, ended or not
local DUE = KEYS[4]         -- sorted set: what may be claimed, by next_run_at
local LEASED = KEYS[5]      -- sorted set: what is claimed, by the instant from which it may be claimed again
local PARKED = KEYS[6]      -- sorted set: what is pending but paused or quarantined, by next_run_at
local INDEX = KEYS[7]       -- sorted set of equal scores: kind .. id, in the order of bytes; kinds are in index_of()
local RUNS = KEYS[8]        -- hash: occurrence id -> packed history row
local RUNS_INDEX = KEYS[9]  -- sorted set of equal scores: kind .. time .. occurrence id; kinds are in index_of_run()
local META = KEYS[10]       -- hash: version of this layout, number of shards

local NEVER = math.huge     -- next_run_at and scheduled_for of what is not pending
local CHUNK = 1000          -- most members that one command is given: Lua passes at most some 8,000 arguments

-- A record, as records.py packs it. What a settle writes comes first and last, so that it need not look at the rest:
--   1 next_run_at, scheduled_for, coalesced, attempt, run_count, quarantined; 30 paused, revision, timing_revision, anchor,
--   created_at, updated_at, length of the texts; 67 digests of task and owner; 79 texts: timing, owner, task; then last_error.
-- A lease: token of 32 letters, lease_until, claims since `attempt` was written to the record, claimant.
local HEAD = "<ddI4I4I4BBI4I4dddI4c6c6"
local TEXTS = 79

local function decode(record)
  local r = {}
  r.next_run_at, r.scheduled_for, r.coalesced, r.attempt, r.run_count, r.quarantined, r.paused, r.revision, r.timing_revision,
    r.anchor, r.created_at, r.updated_at, r.length, r.task, r.owner = struct.unpack(HEAD, record)
  r.texts = string.sub(record, TEXTS, TEXTS + r.length - 1)
  r.last_error = string.sub(record, TEXTS + r.length)
  return r
end

local function encode(r)
  return struct.pack(HEAD, r.next_run_at, r.scheduled_for, r.coalesced, r.attempt, r.run_count, r.quarantined, r.paused,
    r.revision, r.timing_revision, r.anchor, r.created_at, r.updated_at, #r.texts, r.task, r.owner) .. r.texts .. r.last_error
end

local function next_run_at_of(record)
  return (struct.unpack("<d", record))
end

-- Neither paused nor quarantined.
local function is_active(record)
  local quarantined, paused = string.byte(record, 29, 30)
  return quarantined == 0 and paused == 0
end

local function token_of(lease)
  return string.sub(lease, 1, 32)
end

local function lease_until_of(lease)
  return (struct.unpack("<d", lease, 33))
end

local function claims_of(lease)
  return (struct.unpack("<I4", lease, 41))
end

local function with_claims(lease, claims)
  return string.sub(lease, 1, 40) .. struct.pack("<I4", claims) .. string.sub(lease, 45)
end

-- Values of a hash, false where there is none, in the order of `fields`.
local function values_of(hash, fields)
  if #fields <= CHUNK then return #fields > 0 and redis.call("HMGET", hash, unpack(fields)) or {} end
  local values = {}
  for first = 1, #fields, CHUNK do
    for i, value in ipairs(redis.call("HMGET", hash, unpack(fields, first, math.min(first + CHUNK - 1, #fields)))) do
      values[first + i - 1] = value
    end
  end
  return values
end

-- A command over many members, or over many pairs.
local function send(command, key, arguments)
  if #arguments == 0 then return end
  if #arguments <= 2 * CHUNK then return redis.call(command, key, unpack(arguments)) end
  for first = 1, #arguments, 2 * CHUNK do
    redis.call(command, key, unpack(arguments, first, math.min(first + 2 * CHUNK - 1, #arguments)))
  end
end

-- Collects which schedules go into which of the three sets.
local added = { [DUE] = {}, [LEASED] = {}, [PARKED] = {} }
local removed = { [DUE] = {}, [LEASED] = {}, [PARKED] = {} }

local function add(set, score, id)
  local list = added[set]
  list[#list + 1] = score
  list[#list + 1] = id
end

local function remove(set, id)
  local list = removed[set]
  list[#list + 1] = id
end

-- What is taken away goes before what is put there, so that a member can move within a set. It also lets claims and settles work
-- when the memory is full: Redis refuses a script for that at its first write only, and taking away is always allowed.
local function move()
  for _, set in ipairs({ DUE, LEASED, PARKED }) do
    send("ZREM", set, removed[set])
    removed[set] = {}
  end
  for _, set in ipairs({ DUE, LEASED, PARKED }) do
    send("ZADD", set, added[set])
    added[set] = {}
  end
end

-- Puts a schedule into the one set that it belongs to now, if any, and takes it out of those that it may have been in: PARKED, if
-- it was not active; else DUE, or with a lease LEASED. `before` is false for a new schedule; `lease` is its lease, if it has one.
local function place(id, before, after, lease)
  local next_run_at = next_run_at_of(after)
  local set, score = DUE, next_run_at
  if next_run_at == NEVER then
    set = nil
  elseif not is_active(after) then
    set = PARKED
  elseif lease then
    set, score = LEASED, math.max(next_run_at, lease_until_of(lease))
  end
  if before and not is_active(before) then
    if set ~= PARKED then remove(PARKED, id) end
  elseif before then
    if set ~= DUE then remove(DUE, id) end
    if set ~= LEASED then remove(LEASED, id) end
  end
  if set then add(set, score, id) end
end

-- Members of INDEX: i all, t of a task, o of an owner, p paused, q quarantined. Digests have one length, so that long names cost no
-- more; who reads compares the names too.
local function index_of(id, record)
  local members = { "i" .. id, "t" .. string.sub(record, 67, 72) .. id }
  local owner = string.sub(record, 73, 78)
  if owner ~= "\0\0\0\0\0\0" then members[#members + 1] = "o" .. owner .. id end
  if string.byte(record, 30) ~= 0 then members[#members + 1] = "p" .. id end
  if string.byte(record, 29) ~= 0 then members[#members + 1] = "q" .. id end
  return members
end

-- Keeps INDEX up with a change of a record; `before` is false for a new schedule, `after` for one that goes.
local function reindex(id, before, after)
  if before and after and string.sub(before, 29, 30) .. string.sub(before, 67, 78)
    == string.sub(after, 29, 30) .. string.sub(after, 67, 78) then return end
  if before then redis.call("ZREM", INDEX, unpack(index_of(id, before))) end
  if not after then return end
  local arguments = {}
  for _, member in ipairs(index_of(id, after)) do
    arguments[#arguments + 1] = 0
    arguments[#arguments + 1] = member
  end
  redis.call("ZADD", INDEX, unpack(arguments))
end

local function drop(id, record)
  redis.call("HDEL", STATE, id)
  redis.call("HDEL", DOCUMENTS, id)
  redis.call("HDEL", LEASES, id)
  remove(DUE, id)
  remove(LEASED, id)
  remove(PARKED, id)
  reindex(id, record, false)
end

-- What the caller makes schedules of, as four lists. A record that is missing is the mark of an id that does not exist.
local function reply_of(ids, records, leases)
  return { ids, records, leases, values_of(DOCUMENTS, ids) }
end

-- Members of RUNS_INDEX: r all, s of a schedule, and F, M, U of each status but the usual one. A row begins with its time (15
-- digits), its status (one letter) and the digest of its schedule's id (6).
local function index_of_run(occurrence_id, row)
  local place_in_time = string.sub(row, 1, 15) .. occurrence_id
  local status = string.sub(row, 16, 16)
  local members = { "r" .. place_in_time, "s" .. string.sub(row, 17, 22) .. place_in_time }
  if status ~= "S" then members[3] = status .. place_in_time end
  return members
end

-- Bytes as digits: Lua compares text by the server's locale, in which digits alone are safe.
local function sort_key(text)
  return (string.gsub(text, ".", function(byte) return string.format("%03d", string.byte(byte)) end))
end
