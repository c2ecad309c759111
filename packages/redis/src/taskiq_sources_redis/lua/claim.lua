-- Takes what may be claimed. ARGV: now, now + early, limit; lease_until, lease (the first 28 bytes of a record), claimant; the ids,
-- or "" for all. Returns ids, records, documents.
local due_by, lease_until, lease, claimant, packed_ids = tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local NEVER_CLAIMED, FIRST = string.rep("\0", 8), struct.pack("<I4", 1) -- no claimant and no attempt; the first attempt

local ids, records = eligible(packed_ids)
if packed_ids == "" and #ids > 0 then redis.call("ZREMRANGEBYRANK", DUE, 0, #ids - 1) end
for i, id in ipairs(ids) do
  local record = records[i]
  if packed_ids ~= "" then remove("ZREM", has_lease(record) and LEASED or DUE, id) end
  if string.sub(record, 25, 32) == NEVER_CLAIMED then
    records[i] = lease .. FIRST .. string.sub(record, 33) .. claimant
  else
    local attempt = struct.unpack("<I4", record, 29) + 1
    records[i] = lease .. struct.pack("<I4", attempt) .. body_of(record, 33) .. claimant
  end
  -- As text where it is the same for all: Redis writes numbers of Lua slowly.
  write("ZADD", LEASED, lease_until >= due_by and ARGV[4] or math.max(next_run_at_of(record), lease_until), id)
  write("HSET", STATE, id, records[i])
end
commit()
return reply_of(ids, records)
