-- Lets leases last until an instant, where the token is the current one. ARGV: the instant, packed; id, token of each claim.
-- Returns the ids that are still the caller's.
local ids, tokens = {}, {}
for i = 2, #ARGV, 2 do
  ids[#ids + 1] = ARGV[i]
  tokens[#tokens + 1] = ARGV[i + 1]
end

local renewed, pairs_ = {}, {}
local leases = values_of(LEASES, ids)
for i, record in ipairs(values_of(STATE, ids)) do
  local lease = leases[i]
  if record and lease and token_of(lease) == tokens[i] then
    lease = string.sub(lease, 1, 32) .. ARGV[1] .. string.sub(lease, 41)
    renewed[#renewed + 1] = ids[i]
    pairs_[#pairs_ + 1] = ids[i]
    pairs_[#pairs_ + 1] = lease
    place(ids[i], record, record, lease)
  end
end
move()
send("HSET", LEASES, pairs_)
return renewed
