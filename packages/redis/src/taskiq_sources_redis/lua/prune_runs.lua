-- Deletes history rows recorded before an instant, or up to a member of RUN_TIMES, the oldest first. ARGV: the instant, the member
-- or "", limit. Returns how many were deleted, and how many are left.
local last = ARGV[2] == "" and time_key(ARGV[1]) or ARGV[2]
local oldest = redis.call("ZRANGEBYLEX", RUN_TIMES, "-", "[" .. last, "LIMIT", 0, ARGV[3])
local ids = {}
for i, member in ipairs(oldest) do ids[i] = sub(member, 16) end
for i, row in ipairs(values_of(RUNS, ids)) do
  if row then
    each_member_of_run(ids[i], row, unindex_run)
    remove(HDEL, RUNS, ids[i])
  else
    remove(ZREM, RUN_TIMES, oldest[i])
  end
end
commit()
return { #oldest, redis.call("ZCARD", RUN_TIMES) }
