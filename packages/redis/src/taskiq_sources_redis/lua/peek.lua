-- Tells what may be claimed and takes nothing. ARGV: now, now + early, limit, "all" or "ids"; ids...
-- Returns id, next_run_at of each.
local ids, due_times = eligible(5)
local reply = {}
for i, id in ipairs(ids) do reply[2 * i - 1], reply[2 * i] = id, due_times[i] end
return reply
