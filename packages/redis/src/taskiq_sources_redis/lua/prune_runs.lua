-- Deletes history rows below a member of RUN_TIMES, the oldest first. ARGV: the member, limit. Returns how many were deleted.
local oldest = redis.call("ZRANGEBYLEX", RUN_TIMES, "-", "(" .. ARGV[1], "LIMIT", 0, ARGV[2])
local occurrence_ids = {}
for i, member in ipairs(oldest) do occurrence_ids[i] = string.sub(member, 9) end
for i, row in ipairs(values_of(RUNS, occurrence_ids)) do
  remove("ZREM", RUN_TIMES, oldest[i])
  if row then each_member_of_run(oldest[i], row, unindex_run) end
  remove("HDEL", RUNS, occurrence_ids[i])
end
commit()
return #oldest
