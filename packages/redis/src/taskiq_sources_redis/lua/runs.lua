-- Lists history rows, newest first. ARGV: upper bound, limit, kind or "" for all, lower bound, letter of the status or "".
-- Returns the upper bound to go on with, "" if there is nothing more; occurrence ids and rows of what matches. A call looks at a
-- bounded number of rows, so it may return fewer than `limit` and still not be at the end.
local high, limit, kind, low, status = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local MOST_EXAMINED = 5000
local LIST = kind == "" and RUN_TIMES or RUNS_INDEX

local ids, rows, examined, go_on = {}, {}, 0, ""
repeat
  local size = math.min(CHUNK, MOST_EXAMINED - examined, math.max(limit - #ids, examined))
  local members = redis.call("ZREVRANGEBYLEX", LIST, high, low, "LIMIT", 0, size)
  local occurrence_ids = {}
  for i, member in ipairs(members) do occurrence_ids[i] = string.sub(member, #kind + 9) end -- behind kind and time
  for i, row in ipairs(values_of(RUNS, occurrence_ids)) do
    if #ids < limit then
      go_on = "(" .. members[i]
      if row and (status == "" or string.sub(row, 13, 13) == status) then
        ids[#ids + 1], rows[#rows + 1] = occurrence_ids[i], row
      end
    end
  end
  examined = examined + #members
  high = go_on
  if #members < size and #ids < limit then go_on = "" end
until #ids == limit or #members < size or examined == MOST_EXAMINED
return { go_on, joined(ids), joined(rows) }
