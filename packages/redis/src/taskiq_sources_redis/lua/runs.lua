-- Lists history rows, newest first. ARGV: kind, upper bound, lower bound, limit, letter of the status or "".
-- Returns occurrence id, row of each that matches; before them the member to go on below, "" if there is nothing more. A call
-- looks at a bounded number of rows, so it may return fewer than `limit` and still not be at the end.
local kind, high, low, limit, status = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local MOST_EXAMINED = 5000

local reply, examined, found = { "" }, 0, 0
repeat
  local size = math.min(CHUNK, MOST_EXAMINED - examined, math.max(limit - found, examined))
  local members = redis.call("ZREVRANGEBYLEX", RUNS_INDEX, high, low, "LIMIT", 0, size)
  local occurrence_ids = {}
  for i, member in ipairs(members) do occurrence_ids[i] = string.sub(member, #kind + 16) end
  for i, row in ipairs(values_of(RUNS, occurrence_ids)) do
    if found < limit then
      reply[1] = members[i]
      if row and (status == "" or string.sub(row, 16, 16) == status) then
        found = found + 1
        reply[#reply + 1] = occurrence_ids[i]
        reply[#reply + 1] = row
      end
    end
  end
  examined = examined + #members
  if #members > 0 then high = "(" .. members[#members] end
  if #members < size and found < limit then reply[1] = "" end
until found == limit or #members < size or examined == MOST_EXAMINED
return reply
