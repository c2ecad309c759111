-- Tells the earliest instant at which a claim could return something. ARGV: now. Returns milliseconds, or nothing.
local now = tonumber(ARGV[1])
local earliest = NEVER

local place_in_order = 0
repeat
  local head = redis.call("ZRANGE", DUE, place_in_order, place_in_order, "WITHSCORES")
  local record = head[1] and redis.call("HGET", STATE, head[1])
  local r = record and decode(record)
  local is_leased = r and r.lease_until > now -- returned by a caller whose clock is ahead of ours
  if r then earliest = math.min(earliest, is_leased and free_at(r) or r.next_run_at) end
  place_in_order = place_in_order + 1
until not head[1] or (r and not is_leased)

-- Ended leases that no claim has met yet.
local ended = redis.call("ZRANGEBYSCORE", LEASED, "-inf", now)
for _, record in ipairs(values_of(STATE, ended)) do
  if record then earliest = math.min(earliest, decode(record).next_run_at) end
end

local following = redis.call("ZRANGEBYSCORE", LEASED, "(" .. ARGV[1], "+inf", "WITHSCORES", "LIMIT", 0, 1)
if following[2] then earliest = math.min(earliest, tonumber(following[2])) end
return earliest ~= NEVER and earliest or false
