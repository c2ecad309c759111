-- Deletes history rows below a member of RUNS_INDEX of kind r, the oldest first. ARGV: the member, limit.
-- Returns how many were deleted.
local oldest = redis.call("ZRANGEBYLEX", RUNS_INDEX, "[r", "(" .. ARGV[1], "LIMIT", 0, ARGV[2])
local occurrence_ids, members = {}, {}
for i, member in ipairs(oldest) do
  occurrence_ids[i] = string.sub(member, 17)
  members[i] = member
end
for i, row in ipairs(values_of(RUNS, occurrence_ids)) do
  for _, member in ipairs(row and index_of_run(occurrence_ids[i], row) or {}) do members[#members + 1] = member end
end
send("ZREM", RUNS_INDEX, members)
send("HDEL", RUNS, occurrence_ids)
return #oldest
