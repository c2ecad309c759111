-- Lists history rows, newest first. ARGV: after which row, as recorded_at, a space and the occurrence id, or ""; limit; schedule,
-- status, since and until, each "null" for any. Returns the row to go on after, how many more to ask for there, and occurrence
-- ids and rows of what matches. A call looks at a bounded number of rows, so that others get their turn: the row to go on after is ""
-- if it has found as many as it should, or come to the end.
local after, limit, schedule, status, since, before = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local MOST_EXAMINED = 5000

local kind = ""
if schedule ~= "null" then
  kind = "s" .. schedule
elseif status ~= "null" and status ~= '"sent"' then -- sent ones are most: they have no list of their own
  kind = status
end
local LIST = kind == "" and RUN_TIMES or RUNS_INDEX

local low, high = "[" .. kind .. (since == "null" and "" or time_key(since)), ":" -- which follows all digits
local after_time, after_id = match(after, "^(-?%d+) (.*)$")
if before ~= "null" then high = time_key(before) end
if after_time and (before == "null" or tonumber(after_time) < tonumber(before)) then high = time_key(after_time) .. after_id end
high = "(" .. kind .. high

local ids, rows, examined, go_on_after = {}, {}, 0, ""
repeat
  local size = math.min(CHUNK, MOST_EXAMINED - examined, math.max(limit - #ids, examined))
  local members = redis.call("ZREVRANGEBYLEX", LIST, high, low, "LIMIT", 0, size)
  local candidates = {}
  for i, member in ipairs(members) do candidates[i] = sub(member, #kind + 16) end -- behind kind and time
  for i, row in ipairs(values_of(RUNS, candidates)) do
    if row and #ids < limit then
      local recorded_at, row_status = match(row, '^(-?%d+),\n("%a+")')
      go_on_after = recorded_at .. " " .. candidates[i]
      if status == "null" or row_status == status then ids[#ids + 1], rows[#rows + 1] = candidates[i], row end
    end
  end
  examined = examined + #members
  if #members > 0 then high = "(" .. members[#members] end
  if #ids == limit or #members < size then go_on_after = "" end
until #ids == limit or #members < size or examined == MOST_EXAMINED
return { go_on_after, limit - #ids, joined(ids), json_of(rows) }
