-- Tells the earliest instant at which a claim could return something. ARGV: now. Returns milliseconds, or nothing.
local now = tonumber(ARGV[1])
local NEVER = math.huge
local earliest = NEVER

local position = 0
repeat
  local head = redis.call("ZRANGE", DUE, position, position)
  local record = head[1] and redis.call("HGET", STATE, head[1])
  local is_leased = record and holds_others_off(record, now) -- returned by a caller whose clock is ahead
  if record then
    local next_run_at = next_run_at_of(record)
    earliest = math.min(earliest, tonumber(is_leased and later(next_run_at, lease_until_of(record)) or next_run_at))
  end
  position = position + 1
until not is_leased

-- Ended leases that no claim has met yet.
local ended = redis.call("ZRANGEBYSCORE", LEASED, "-inf", now)
for _, record in ipairs(values_of(STATE, ended)) do
  if record then earliest = math.min(earliest, tonumber(next_run_at_of(record))) end
end

local following = redis.call("ZRANGEBYSCORE", LEASED, "(" .. ARGV[1], "+inf", "WITHSCORES", "LIMIT", 0, 1)
if following[2] then earliest = math.min(earliest, tonumber(following[2])) end
return earliest ~= NEVER and earliest or false
