-- Tells what may be claimed and takes nothing. ARGV: now, now + early, limit, "all" or "ids", ids...
-- Returns id, next_run_at of each, oldest first.
local ids = {}
for i = 5, #ARGV do ids[#ids + 1] = ARGV[i] end

local reply = {}
for _, entry in ipairs(eligible(ids)) do
  reply[#reply + 1] = entry[1]
  reply[#reply + 1] = entry[2].next_run_at
end
return reply
