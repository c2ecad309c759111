-- Deletes history rows below a member of RUNS_INDEX of kind r, the oldest first. ARGV: the member, limit.
-- Returns how many were deleted.
local oldest = redis.call("ZRANGEBYLEX", RUNS_INDEX, "[r", "(" .. ARGV[1], "LIMIT", 0, ARGV[2])
local occurrence_ids = {}
for i, member in ipairs(oldest) do occurrence_ids[i] = string.sub(member, 10) end -- behind kind and time
for i, row in ipairs(values_of(RUNS, occurrence_ids)) do
  unindex_run(oldest[i])
  if row then each_member_of_run(occurrence_ids[i], row, unindex_run) end
  remove("HDEL", RUNS, occurrence_ids[i])
end
commit()
return #oldest
