-- Takes what may be claimed. ARGV: now, now + early, limit, "all" or "ids", the lease of a first claim; ids...
-- Returns ids, records, leases, documents.
local first_lease = ARGV[5]
local lease_until = lease_until_of(first_lease)
local ids, due_times, ended = eligible(6)

local leases, pairs_ = {}, {}
for i, id in ipairs(ids) do
  leases[i] = ended[i] and with_claims(first_lease, claims_of(ended[i]) + 1) or first_lease
  pairs_[2 * i - 1], pairs_[2 * i] = id, leases[i]
  remove(DUE, id)
  add(LEASED, math.max(due_times[i], lease_until), id)
end
move()
send("HSET", LEASES, pairs_)
return reply_of(ids, values_of(STATE, ids), leases)
