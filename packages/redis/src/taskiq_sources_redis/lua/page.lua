-- Lists schedules in the order of ids. ARGV: after or "", limit, due_before or "", paused "" "0" "1", quarantined the same,
-- "=" .. task name or "", "=" .. owner or "", kinds of INDEX that hold all that match... The shortest of those lists is read.
-- Returns id, record, document of each that matches; before them the id to go on after, "" if there is nothing more. A call looks
-- at a bounded number of schedules, so it may return fewer than `limit` and still not be at the end.
local after, limit, due_before = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local paused, quarantined, task_name, owner = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
local MOST_EXAMINED = 5000
local MOST_DUE = 1000 -- so few are better looked up by their due time, and sorted

local function matches(r)
  return (not due_before or r.next_run_at < due_before)
    and (not paused or r.paused == paused)
    and (not quarantined or r.quarantined == quarantined)
    and (task_name == "" or "=" .. r.task_name == task_name)
    and (owner == "" or r.owner == owner)
end

local function bounds(kind)
  return after == "" and "[" .. kind or "(" .. kind .. after, "(" .. kind .. "\255" -- no UTF-8 text has this byte
end

local kind, shortest
for i = 8, #ARGV do
  local length = redis.call("ZLEXCOUNT", INDEX, bounds(ARGV[i]))
  if not shortest or length < shortest then kind, shortest = ARGV[i], length end
end

local ids, records, go_on_after = {}, {}, ""

local function read_due()
  local candidates = redis.call("ZRANGE", LEASED, 0, -1)
  for _, set in ipairs({ DUE, PARKED }) do
    for _, id in ipairs(redis.call("ZRANGEBYSCORE", set, "-inf", "(" .. ARGV[3])) do candidates[#candidates + 1] = id end
  end
  local keys, found, start = {}, {}, sort_key(after)
  for i, record in ipairs(values_of(STATE, candidates)) do
    local key = sort_key(candidates[i])
    if record and (after == "" or key > start) and matches(decode(record)) then
      keys[#keys + 1] = key
      found[key] = { candidates[i], record }
    end
  end
  table.sort(keys)
  for i = 1, math.min(limit, #keys) do ids[i], records[i] = found[keys[i]][1], found[keys[i]][2] end
  if #keys > limit then go_on_after = ids[limit] end
end

local function read_index()
  local low, high = bounds(kind)
  local examined = 0
  repeat
    local size = math.min(CHUNK, MOST_EXAMINED - examined, math.max(limit - #ids, examined))
    local members = redis.call("ZRANGEBYLEX", INDEX, low, high, "LIMIT", 0, size)
    local candidates = {}
    for i, member in ipairs(members) do candidates[i] = string.sub(member, #kind + 1) end
    for i, record in ipairs(values_of(STATE, candidates)) do
      if #ids < limit then
        go_on_after = candidates[i]
        if record and matches(decode(record)) then
          ids[#ids + 1] = candidates[i]
          records[#records + 1] = record
        end
      end
    end
    examined = examined + #members
    if #members > 0 then low = "(" .. members[#members] end
    if #members < size and #ids < limit then go_on_after = "" end
  until #ids == limit or #members < size or examined == MOST_EXAMINED
end

local due = due_before and redis.call("ZCOUNT", DUE, "-inf", "(" .. ARGV[3]) + redis.call("ZCARD", LEASED)
  + redis.call("ZCOUNT", PARKED, "-inf", "(" .. ARGV[3])
if due and due <= MOST_DUE and due < shortest then read_due() else read_index() end

local reply = { go_on_after }
for i, document in ipairs(values_of(DOCUMENTS, ids)) do
  reply[#reply + 1] = ids[i]
  reply[#reply + 1] = records[i]
  reply[#reply + 1] = document or ""
end
return reply
