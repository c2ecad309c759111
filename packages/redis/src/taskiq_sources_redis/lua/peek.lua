-- Tells what may be claimed and takes nothing. ARGV: now, now + early, limit, ids, or "" for all. Returns id, next_run_at of each.
local ids, records = eligible(ARGV[4])
local reply = {}
for i, id in ipairs(ids) do reply[2 * i - 1], reply[2 * i] = id, next_run_at_of(records[i]) end
return reply
