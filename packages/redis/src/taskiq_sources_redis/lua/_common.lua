-- What the operations share; put in front of each of them. A shard is eleven keys with one hash tag, always given in this order:
local STATE = KEYS[1]       -- hash: id -> packed record, everything but the document
local DOCUMENTS = KEYS[2]   -- hash: id -> document; apart, so that claims and settles do not rewrite it
local DUE = KEYS[3]         -- sorted set: what may be claimed, by next_run_at
local LEASED = KEYS[4]      -- sorted set: what is claimed, by the instant from which it may be claimed again
local PARKED = KEYS[5]      -- sorted set: what is pending but paused or quarantined, by next_run_at
local IDS = KEYS[6]         -- sorted set of equal scores: all ids, in the order of bytes
local INDEX = KEYS[7]       -- sorted set of equal scores: kind .. id; kinds are in each_member()
local RUNS = KEYS[8]        -- hash: occurrence id -> packed history row
local RUN_TIMES = KEYS[9]   -- sorted set of equal scores: time .. occurrence id of all history rows
local RUNS_INDEX = KEYS[10] -- sorted set of equal scores: kind .. time .. occurrence id; kinds are in each_member_of_run()
local META = KEYS[11]       -- hash: version of this layout, number of shards

local NEVER = math.huge     -- next_run_at and scheduled_for of what is not pending
local CHUNK = 1000          -- most members that one command is given: Lua passes at most some 8,000 arguments

-- -- records, as records.py packs them ------------------------------------------------------------------------------------------

-- The lease comes first, and what a settle writes next, so that claims and settles need not look at the rest:
--    1 token, lease_until, length of claimant: all zero but lease_until, which is -inf, without a lease;
--   29 attempt; 33 next_run_at, scheduled_for, coalesced, run_count, length of last_error, quarantined;
--   62 paused, revision, timing_revision, anchor, created_at, updated_at, lengths of timing and owner, digests of task and owner;
--  111 texts: timing, owner, task, last_error, claimant.
local HEAD = "<c16dI4I4ddI4I4I4BBI4I4dddI4I4c4c4"
local NO_LEASE = struct.pack("<c16dI4", string.rep("\0", 16), -math.huge, 0)
local NOBODY = "\0\0\0\0"

local function decode(record)
  local r, at = {}, nil
  local error_length, claimant_length, timing_length, owner_length
  r.token, r.lease_until, claimant_length, r.attempt, r.next_run_at, r.scheduled_for, r.coalesced, r.run_count, error_length,
    r.quarantined, r.paused, r.revision, r.timing_revision, r.anchor, r.created_at, r.updated_at, timing_length, owner_length,
    r.task_digest, r.owner_digest, at = struct.unpack(HEAD, record)
  local task_length = #record - at + 1 - timing_length - owner_length - error_length - claimant_length
  local function text(length)
    at = at + length
    return string.sub(record, at - length, at - 1)
  end
  r.timing, r.owner, r.task, r.last_error = text(timing_length), text(owner_length), text(task_length), text(error_length)
  r.claimant = text(claimant_length)
  return r
end

local function encode(r)
  return struct.pack(HEAD, r.token, r.lease_until, #r.claimant, r.attempt, r.next_run_at, r.scheduled_for, r.coalesced,
    r.run_count, #r.last_error, r.quarantined, r.paused, r.revision, r.timing_revision, r.anchor, r.created_at, r.updated_at,
    #r.timing, #r.owner, r.task_digest, r.owner_digest) .. r.timing .. r.owner .. r.task .. r.last_error .. r.claimant
end

local function token_of(record)
  return string.sub(record, 1, 16)
end

local function has_lease(record)
  return string.byte(record, 1) ~= 0
end

local function lease_until_of(record)
  return (struct.unpack("<d", record, 17))
end

local function next_run_at_of(record)
  return (struct.unpack("<d", record, 33))
end

-- Neither paused nor quarantined.
local function is_active(record)
  local quarantined, paused = string.byte(record, 61, 62)
  return quarantined == 0 and paused == 0
end

-- A record without the text of its claimant, which comes last, and without what comes before `first`.
local function body_of(record, first)
  return string.sub(record, first, #record - struct.unpack("<I4", record, 25))
end

-- -- reading, and lists in one string -------------------------------------------------------------------------------------------

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

-- The strings that the caller has packed, each behind its length: thousands of arguments would cost much more.
local function split(packed)
  local parts, position = {}, 1
  while position <= #packed do
    local number = struct.unpack("<I4", packed, position)
    local found = { struct.unpack("<" .. string.rep("I4c0", number), packed, position + 4) }
    position = table.remove(found)
    if position > #packed and #parts == 0 then return found end
    for _, part in ipairs(found) do parts[#parts + 1] = part end
  end
  return parts
end

-- Strings in one, for the same reason: their number, their lengths, and they themselves.
local function joined(strings)
  local parts = { struct.pack("<I4", #strings) }
  for first = 1, #strings, CHUNK do
    local lengths = {}
    for i = first, math.min(first + CHUNK - 1, #strings) do lengths[#lengths + 1] = #strings[i] end
    parts[#parts + 1] = struct.pack("<" .. string.rep("I4", #lengths), unpack(lengths))
  end
  parts[#parts + 1] = table.concat(strings)
  return table.concat(parts)
end

-- What the caller makes schedules of: ids, records, documents.
local function reply_of(ids, records)
  local documents = values_of(DOCUMENTS, ids)
  for i = 1, #ids do documents[i] = documents[i] or "" end
  return { joined(ids), joined(records), joined(documents) }
end

-- -- writing: what is to be done is collected, and done by commit(), in one command for each kind and key ------------------------

local collected = { ZREM = {}, HDEL = {}, ZADD = {}, HSET = {} }
for _, lists in pairs(collected) do
  for _, key in ipairs(KEYS) do lists[key] = {} end
end

local function remove(command, key, member)
  local list = collected[command][key]
  list[#list + 1] = member
end

-- Score and member of a sorted set, or field and value of a hash.
local function write(command, key, first, second)
  local list = collected[command][key]
  local length = #list
  list[length + 1], list[length + 2] = first, second
end

local function send(command, key, arguments)
  local answer = 0
  for first = 1, #arguments, 2 * CHUNK do
    answer = answer + redis.call(command, key, unpack(arguments, first, math.min(first + 2 * CHUNK - 1, #arguments)))
  end
  return answer
end

-- What is taken away goes before what is put there, so that a member can move within a set. It also lets claims and settles work
-- when the memory is full: Redis refuses a script for that at its first write only, and taking away is always allowed.
local function commit()
  for _, command in ipairs({ "ZREM", "HDEL", "ZADD", "HSET" }) do
    for _, key in ipairs(KEYS) do
      local list = collected[command][key]
      if #list > 0 then
        collected[command][key] = {}
        local done = send(command, key, list)
        if key == LEASED and command == "ZREM" and done < #list then
          -- A claim that met more ended leases than it took has put the others among what is due.
          send("ZREM", DUE, list)
        elseif key == STATE and command == "HDEL" then
          send("HDEL", DOCUMENTS, list)
          send("ZREM", IDS, list)
        end
      end
    end
  end
end

-- Members of INDEX: t of a task, o of an owner, p paused, q quarantined. Digests have one length, so that long names cost no more;
-- who reads compares the names too.
local function each_member(id, record, act)
  act("t" .. string.sub(record, 103, 106) .. id)
  local owner = string.sub(record, 107, 110)
  if owner ~= NOBODY then act("o" .. owner .. id) end
  local quarantined, paused = string.byte(record, 61, 62)
  if paused ~= 0 then act("p" .. id) end
  if quarantined ~= 0 then act("q" .. id) end
end

-- Members of RUNS_INDEX: s of a schedule, and F, M, U of each status but the usual one. A row begins with the digest of its
-- schedule's id (4), its time (8) and the letter of its status.
local function each_member_of_run(time_and_id, row, act)
  act("s" .. string.sub(row, 1, 4) .. time_and_id)
  local status = string.sub(row, 13, 13)
  if status ~= "S" then act(status .. time_and_id) end
end

local function index(member) write("ZADD", INDEX, "0", member) end
local function unindex(member) remove("ZREM", INDEX, member) end
local function index_run(member) write("ZADD", RUNS_INDEX, "0", member) end
local function unindex_run(member) remove("ZREM", RUNS_INDEX, member) end

-- The one set that a schedule belongs to, if any.
local function set_of(record)
  if next_run_at_of(record) == NEVER then return nil end
  return not is_active(record) and PARKED or has_lease(record) and LEASED or DUE
end

local function score_in(set, record)
  return set == LEASED and math.max(next_run_at_of(record), lease_until_of(record)) or next_run_at_of(record)
end

-- Collects a change of a record, and what follows for the sets; `before` is false for a new schedule, `after` for one that goes.
local function change(id, before, after)
  local from, to = before and set_of(before), after and set_of(after)
  if from and (from ~= to or from == LEASED) then remove("ZREM", from, id) end -- what is leased may be in DUE: commit() knows
  if to then write("ZADD", to, score_in(to, after), id) end
  if not (before and after and string.sub(before, 61, 62) == string.sub(after, 61, 62)
    and string.sub(before, 103, 110) == string.sub(after, 103, 110)) then
    if before then each_member(id, before, unindex) end
    if after then each_member(id, after, index) end
  end
  if after then
    write("HSET", STATE, id, after)
    if not before then write("ZADD", IDS, "0", id) end
  else
    remove("HDEL", STATE, id) -- and so from DOCUMENTS and IDS
  end
end

-- Bytes as digits: Lua compares text by the server's locale, in which digits alone are safe.
local function sort_key(text)
  return (string.gsub(text, ".", function(byte) return string.format("%03d", string.byte(byte)) end))
end
