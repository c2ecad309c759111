-- Lists schedules in the order of ids. ARGV: after or "", limit; task, paused, quarantined, owner, due_before, each "null" for any.
-- Of the lists that hold all that match, the shortest is read. Returns the id to go on after, how many more to ask for there, and
-- ids, records, documents of what matches. A call looks at a bounded number of schedules, so that others get their turn: the id is
-- "" if it has found as many as it should, or come to the end. It also stops where the answer is large enough.
local after, limit, task, paused, quarantined, owner = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local due_before = tonumber(ARGV[7])
local MOST_EXAMINED = 5000
local MOST_DUE = 1000 -- so few are better looked up by their due time, and sorted

local function matches(record)
  local _, _, is_paused, _, progress, next_run_at, is_quarantined = deciding(record)
  local record_owner, record_task
  if task ~= "null" or owner ~= "null" then record_owner, record_task = owner_and_task_of(record, progress) end
  return (not due_before or next_run_at ~= "null" and tonumber(next_run_at) < due_before)
    and (paused == "null" or is_paused == paused)
    and (quarantined == "null" or is_quarantined == quarantined)
    and (task == "null" or record_task == task)
    and (owner == "null" or record_owner == owner)
end

local kinds = { "" }
if task ~= "null" then kinds[#kinds + 1] = "t" .. task end
if owner ~= "null" then kinds[#kinds + 1] = "o" .. owner end
if paused == "true" then kinds[#kinds + 1] = "p" end
if quarantined == "true" then kinds[#kinds + 1] = "q" end

local function bounds(kind)
  return after == "" and "[" .. kind or "(" .. kind .. after, "(" .. kind .. "\255" -- no UTF-8 text has this byte
end

local function list_of(kind)
  return kind == "" and IDS or INDEX
end

local kind, shortest
for _, each in ipairs(kinds) do
  local length = redis.call("ZLEXCOUNT", list_of(each), bounds(each))
  if not shortest or length < shortest then kind, shortest = each, length end
end

local ids, records, go_on_after = {}, {}, ""

local function read_due()
  local candidates = redis.call("ZRANGE", LEASED, 0, -1)
  for _, set in ipairs({ DUE, PARKED }) do
    for _, id in ipairs(redis.call("ZRANGEBYSCORE", set, "-inf", "(" .. ARGV[7])) do candidates[#candidates + 1] = id end
  end
  local keys, found, start = {}, {}, sort_key(after)
  for i, record in ipairs(values_of(STATE, candidates)) do
    local key = sort_key(candidates[i])
    if record and (after == "" or key > start) and matches(record) then
      keys[#keys + 1] = key
      found[key] = { candidates[i], record }
    end
  end
  table.sort(keys)
  for i = 1, math.min(limit, #keys) do ids[i], records[i] = found[keys[i]][1], found[keys[i]][2] end
end

local function read_index()
  local low, high = bounds(kind)
  local examined = 0
  repeat
    local size = math.min(CHUNK, MOST_EXAMINED - examined, math.max(limit - #ids, examined))
    local members = redis.call("ZRANGEBYLEX", list_of(kind), low, high, "LIMIT", 0, size)
    local candidates = {}
    for i, member in ipairs(members) do candidates[i] = sub(member, #kind + 1) end
    for i, record in ipairs(values_of(STATE, candidates)) do
      if #ids < limit then
        go_on_after = candidates[i]
        if record and matches(record) then
          ids[#ids + 1] = candidates[i]
          records[#records + 1] = record
        end
      end
    end
    examined = examined + #members
    if #members > 0 then low = "(" .. members[#members] end
    if #ids == limit or #members < size then go_on_after = "" end
  until #ids == limit or #members < size or examined == MOST_EXAMINED
end

local due = due_before and redis.call("ZCOUNT", DUE, "-inf", "(" .. ARGV[7]) + redis.call("ZCARD", LEASED)
  + redis.call("ZCOUNT", PARKED, "-inf", "(" .. ARGV[7])
if due and due <= MOST_DUE and due < shortest then read_due() else read_index() end
local documents = documents_of(ids)
if #documents < #ids then go_on_after = ids[#documents] end
return { go_on_after, limit - #documents, unpack(reply_of(ids, records, documents)) }
