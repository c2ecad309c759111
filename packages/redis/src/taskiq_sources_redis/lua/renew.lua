-- Lets leases last until an instant, where the token is the current one. ARGV: the instant; id, token of each claim.
-- Returns the ids that are still the caller's.
local until_ = tonumber(ARGV[1])
local ids, tokens = {}, {}
for i = 2, #ARGV, 2 do
  ids[#ids + 1] = ARGV[i]
  tokens[#tokens + 1] = ARGV[i + 1]
end

local renewed = {}
for i, record in ipairs(values_of(STATE, ids)) do
  local r = record and decode(record)
  if r and r.token ~= "" and r.token == tokens[i] then
    r.lease_until = until_
    write("HSET", STATE, ids[i], encode(r))
    place(ids[i], r)
    renewed[#renewed + 1] = ids[i]
  end
end
flush()
return renewed
