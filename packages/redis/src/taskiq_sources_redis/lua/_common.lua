-- What the operations share; put in front of each of them. A shard is eleven keys with one hash tag, always given in this order:
local STATE = KEYS[1]       -- hash: id -> record, everything but the document
local DOCUMENTS = KEYS[2]   -- hash: id -> document; apart, so that claims and settles do not rewrite it
local DUE = KEYS[3]         -- sorted set: what may be claimed, by next_run_at
local LEASED = KEYS[4]      -- sorted set: what is claimed, by the instant from which it may be claimed again
local PARKED = KEYS[5]      -- sorted set: what is pending but paused or quarantined, by next_run_at
local IDS = KEYS[6]         -- sorted set of equal scores: all ids, in the order of bytes
local INDEX = KEYS[7]       -- sorted set of equal scores: kind .. id; kinds are in each_kind()
local RUNS = KEYS[8]        -- hash: occurrence id -> history row
local RUN_TIMES = KEYS[9]   -- sorted set of equal scores: time .. occurrence id of all history rows
local RUNS_INDEX = KEYS[10] -- sorted set of equal scores: kind .. time .. occurrence id; kinds are in each_member_of_run()
local META = KEYS[11]       -- hash: version of this layout, number of shards

local SEPARATOR = "\255"    -- between the parts of a list: no UTF-8 text has this byte
local MOST_BYTES = 4194304  -- of documents in an answer: Redis makes it, and sends it, in some milliseconds
local FEW = 16              -- documents that are read at once
local CHUNK = 1000          -- most members that one command is given: Lua passes at most some 8,000 arguments

local byte, find, match, sub = string.byte, string.find, string.match, string.sub -- looked up once, for they are used most

-- -- records and history rows: JSON values, one a line, so that the caller reads them with one call ------------------------------

-- Instants are milliseconds since the epoch. What decides where a schedule belongs comes early, and what a settle writes is in one
-- piece. A value is taken as the text that it is: JSON has no line break within a text, and equal texts were written equally.
local NAMES = {
  "token", "lease_until", "claimant", -- null without a lease
  "paused", "revision", "timing_revision",
  "attempt", "next_run_at", "quarantined", "scheduled_for", "coalesced", "run_count", "last_error", -- what a settle writes
  "anchor", "created_at", "updated_at", "timing", "owner", "task_name",
}
local NO_LEASE = "null,\nnull,\nnull,\n"
local DECIDING = "^%S+,\n(-?%w+),\n[^\n]+,\n()(%a+),\n%d+,\n(%d+),\n()%d+,\n(-?%w+),\n(%a+)"
local PROGRESS = "^%d+,\n%-?%w+,\n%a+,\n%-?%w+,\n%d+,\n%d+,\n[^\n]+,\n"
local UP_TO_TIMING = PROGRESS .. "%-?%d+,\n%-?%d+,\n%-?%d+,\n()"

-- What decides where a record belongs, and where its pieces begin: lease_until, where paused is, paused, timing_revision, where
-- attempt is, next_run_at, quarantined.
local function deciding(record)
  return match(record, DECIDING)
end

local function decode(record)
  local r, position = {}, 0
  for value in string.gmatch(record .. ",", "([^\n]+),\n?") do
    position = position + 1
    r[NAMES[position]] = value
  end
  return r
end

local function encode(r)
  local values = {}
  for position, name in ipairs(NAMES) do values[position] = r[name] end
  return table.concat(values, ",\n")
end

local function increased(number)
  return string.format("%d", number + 1)
end

-- `token` as the text that it is in JSON, in quotes.
local function has_token(record, token)
  return find(record, token, 1, true) == 1
end

-- Nothing without a lease, as a text.
local function lease_until_of(record)
  return match(record, '^"[^"]*",\n(-?%d+)')
end

local function holds_others_off(record, now)
  local lease_until = lease_until_of(record)
  return lease_until and tonumber(lease_until) > now
end

-- As a text; "null" where nothing is pending.
local function next_run_at_of(record)
  local _, _, _, _, _, next_run_at = deciding(record)
  return next_run_at
end

local function owner_and_task_of(record, progress)
  local timing = assert(match(record, UP_TO_TIMING, progress), "a record is not of this layout")
  return match(record, "^([^\n]+),\n([^\n]+)", find(record, "\n", timing, true) + 1) -- what is long is found sooner than matched
end

local function later(one, other)
  return tonumber(one) > tonumber(other) and one or other
end

-- -- reading, and lists in one string: thousands of arguments, or answers, would cost both sides much more -----------------------

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

local function split(packed)
  local parts, n, from = {}, 0, 1
  repeat
    local to = find(packed, SEPARATOR, from, true)
    n = n + 1
    parts[n] = sub(packed, from, to and to - 1 or -1)
    from = (to or 0) + 1
  until not to
  return parts
end

-- In one text, the first so many or all of them; and the same of records.
local function joined(parts, number)
  return table.concat(parts, SEPARATOR, 1, number)
end

local function json_of(records, number)
  return #records == 0 and "[]" or "[[" .. table.concat(records, "],[", 1, number) .. "]]"
end

-- Documents of the first of `ids`: as many as fit into an answer, but one at least; "" where there is none. They are read a few at
-- a time, because Lua holds all that is read, however little of it goes out.
local function documents_of(ids)
  local documents, bytes = {}, 0
  for first = 1, #ids, FEW do
    for i, document in ipairs(redis.call("HMGET", DOCUMENTS, unpack(ids, first, math.min(first + FEW - 1, #ids)))) do
      document = document or ""
      bytes = bytes + #document
      if bytes > MOST_BYTES and #documents > 0 then return documents end
      documents[first + i - 1] = document
    end
  end
  return documents
end

-- What the caller makes schedules of: ids, records, documents; of as many as there are documents.
local function reply_of(ids, records, documents)
  return { joined(ids, #documents), json_of(records, #documents), joined(documents) }
end

-- -- writing: what is to be done is collected, and done by commit(), in one command for each kind and key ------------------------

local ZREM, HDEL, ZADD, HSET = {}, {}, {}, {} -- by key: a list and, as n, its length
local COMMANDS = { { "ZREM", ZREM }, { "HDEL", HDEL }, { "ZADD", ZADD }, { "HSET", HSET } }

local function new_list(lists, key)
  lists[key] = { n = 0 }
  return lists[key]
end

local function remove(lists, key, member)
  local list = lists[key] or new_list(lists, key)
  local n = list.n + 1
  list[n], list.n = member, n
end

-- Score and member of a sorted set, or field and value of a hash. Scores are texts: Redis writes numbers of Lua slowly.
local function write(lists, key, first, second)
  local list = lists[key] or new_list(lists, key)
  local n = list.n + 2
  list[n - 1], list[n], list.n = first, second, n
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
  for _, each in ipairs(COMMANDS) do
    local command, lists = each[1], each[2]
    for _, key in ipairs(KEYS) do
      local list = lists[key]
      if list then
        lists[key] = nil
        local done = send(command, key, list)
        if key == LEASED and command == "ZREM" and done < list.n then
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

-- For settles and renewals of what is in no set that they take it from, such as what was paused meanwhile: takes away what is not
-- there, so that commit() is not refused when the memory is full.
local function write_in_any_case()
  redis.call("HDEL", META, "")
  commit()
end

-- Members of INDEX: t of a task, o of an owner, p paused, q quarantined. A name is in quotes, so none is the beginning of another.
local function each_kind(id, record, paused, progress, quarantined, act)
  local owner, task = owner_and_task_of(record, progress)
  act("t" .. task .. id)
  if owner ~= "null" then act("o" .. owner .. id) end
  if paused == "true" then act("p" .. id) end
  if quarantined == "true" then act("q" .. id) end
end

local function index(member) write(ZADD, INDEX, "0", member) end
local function unindex(member) remove(ZREM, INDEX, member) end

-- The one set that a schedule belongs to, if any, and its score there.
local function place_of(lease_until, paused, next_run_at, quarantined)
  if next_run_at == "null" then return nil end
  if paused == "true" or quarantined == "true" then return PARKED, next_run_at end
  if lease_until == "null" then return DUE, next_run_at end
  return LEASED, later(next_run_at, lease_until)
end

-- Collects a move from one set to another, each of which may be none.
local function move(id, from, to, score)
  if from and (from ~= to or from == LEASED) then remove(ZREM, from, id) end -- what is leased may be in DUE: commit() knows
  if to then write(ZADD, to, score, id) end
end

-- Collects that a schedule goes. Behind its record comes what deciding() returns of it.
local function forget(id, record, lease_until, _, paused, _, progress, next_run_at, quarantined)
  move(id, (place_of(lease_until, paused, next_run_at, quarantined)))
  each_kind(id, record, paused, progress, quarantined, unindex)
  remove(HDEL, STATE, id) -- and so from DOCUMENTS and IDS
end

-- Collects a change of a record, and what follows for the sets. `before` is false for a new schedule; `is_same` says that task and
-- owner are the old ones.
local function change(id, before, after, is_same)
  local from, was_paused, old_progress, was_quarantined, _
  local lease_until, _, paused, _, progress, next_run_at, quarantined = deciding(after)
  if before then
    local old_lease_until, old_next_run_at
    old_lease_until, _, was_paused, _, old_progress, old_next_run_at, was_quarantined = deciding(before)
    from = place_of(old_lease_until, was_paused, old_next_run_at, was_quarantined)
  else
    write(ZADD, IDS, "0", id)
  end
  move(id, from, place_of(lease_until, paused, next_run_at, quarantined))
  if not is_same or was_quarantined ~= quarantined or was_paused ~= paused then
    if before then each_kind(id, before, was_paused, old_progress, was_quarantined, unindex) end
    each_kind(id, after, paused, progress, quarantined, index)
  end
  write(HSET, STATE, id, after)
end

-- -- order -----------------------------------------------------------------------------------------------------------------------

-- Bytes as digits: Lua compares text by the server's locale, in which digits alone are safe.
local function sort_key(text)
  return (string.gsub(text, ".", function(letter) return string.format("%03d", byte(letter)) end))
end

-- An instant as 15 digits, in which earlier is smaller: moved, because a sign would disturb the order.
local function time_key(milliseconds)
  if #milliseconds == 13 and byte(milliseconds) ~= 45 then return "10" .. milliseconds end -- not the minus: 2001 to 2286
  return string.format("%015.0f", milliseconds + 100000000000000)
end

-- Members of RUN_TIMES and of RUNS_INDEX, the latter by kind: s of a schedule, and each status but the usual one. A history row
-- begins with recorded_at, status and schedule_id.
local function each_member_of_run(id, row, act)
  local recorded_at, status, position = match(row, '^(-?%d+),\n("%a+"),\n()')
  local time_and_id = time_key(recorded_at) .. id
  act(RUN_TIMES, time_and_id)
  act(RUNS_INDEX, "s" .. sub(row, position, find(row, "\n", position, true) - 2) .. time_and_id)
  if status ~= '"sent"' then act(RUNS_INDEX, status .. time_and_id) end
end

local function index_run(list, member) write(ZADD, list, "0", member) end
local function unindex_run(list, member) remove(ZREM, list, member) end
