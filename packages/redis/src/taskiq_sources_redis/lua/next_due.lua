-- Tells the earliest instant at which a claim could return something. ARGV: now. Returns milliseconds, or nothing.
local now = tonumber(ARGV[1])
local earliest = NEVER

local position = 0
repeat
  local head = redis.call("ZRANGE", DUE, position, position)
  local record = head[1] and redis.call("HGET", STATE, head[1])
  local is_leased = record and has_lease(record) and lease_until_of(record) > now -- returned by a caller whose clock is ahead
  if record then
    earliest = math.min(earliest, math.max(next_run_at_of(record), is_leased and lease_until_of(record) or -NEVER))
  end
  position = position + 1
until not is_leased

-- Ended leases that no claim has met yet.
local ended = redis.call("ZRANGEBYSCORE", LEASED, "-inf", now)
for _, record in ipairs(values_of(STATE, ended)) do
  if record then earliest = math.min(earliest, next_run_at_of(record)) end
end

local following = redis.call("ZRANGEBYSCORE", LEASED, "(" .. ARGV[1], "+inf", "WITHSCORES", "LIMIT", 0, 1)
if following[2] then earliest = math.min(earliest, tonumber(following[2])) end
return earliest ~= NEVER and earliest or false
