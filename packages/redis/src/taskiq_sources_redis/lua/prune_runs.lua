-- Deletes history rows below a member of RUNS_INDEX of kind r, the oldest first. ARGV: the member, limit.
-- Returns how many were deleted.
local members = redis.call("ZRANGEBYLEX", RUNS_INDEX, "[r", "(" .. ARGV[1], "LIMIT", 0, ARGV[2])
local occurrence_ids = {}
for i, member in ipairs(members) do occurrence_ids[i] = string.sub(member, 17) end
for i, row in ipairs(values_of(RUNS, occurrence_ids)) do
  write("ZREM", RUNS_INDEX, members[i])
  write("HDEL", RUNS, occurrence_ids[i])
  if row then
    for _, member in ipairs(index_of_run(occurrence_ids[i], row)) do write("ZREM", RUNS_INDEX, member) end
  end
end
flush()
return #members
