-- Takes what may be claimed. ARGV: now, now + early, limit, "all" or "ids", lease_until, token, claimant, ids...
-- Returns id, record, document of each, oldest first.
local lease_until, token, claimant = tonumber(ARGV[5]), ARGV[6], ARGV[7]
local ids = {}
for i = 8, #ARGV do ids[#ids + 1] = ARGV[i] end

local taken = {}
local reply = {}
for i, entry in ipairs(eligible(ids)) do
  local id, r = entry[1], entry[2]
  r.attempt = r.attempt + 1
  r.lease_until = lease_until
  r.token = token
  r.claimant = claimant
  local record = encode(r)
  write("HSET", STATE, id, record)
  write("ZREM", DUE, id)
  write("ZADD", LEASED, free_at(r), id)
  taken[i] = id
  reply[3 * i - 2], reply[3 * i - 1] = id, record
end
flush()
for i, document in ipairs(values_of(DOCUMENTS, taken)) do reply[3 * i] = document or "" end
return reply
