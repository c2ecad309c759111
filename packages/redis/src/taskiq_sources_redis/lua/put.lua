-- Stores schedules. ARGV: channel, whether to replace ("1") what exists; id, record as of a new one, document of each.
-- Returns the ids that existed.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local replace = ARGV[2] == "1"
local ids = {}
for i = 3, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end

-- The definition is the new one's; what has become of the schedule stays, as far as it runs at the same instants.
local function replaced(id, record, given)
  local old, new = decode(record), decode(given)
  local function timing(r) return (struct.unpack("<I4c0", r.texts)) end
  new.created_at, new.paused, new.quarantined = old.created_at, old.paused, 0
  new.revision = old.revision + 1
  new.timing_revision = new.revision
  if timing(new) == timing(old) then
    new.scheduled_for, new.next_run_at, new.anchor, new.coalesced = old.scheduled_for, old.next_run_at, old.anchor, old.coalesced
    new.attempt, new.run_count, new.last_error = old.attempt, old.run_count, old.last_error
    new.timing_revision = old.timing_revision
    return encode(new)
  end
  local lease = redis.call("HGET", LEASES, id)
  if lease then redis.call("HSET", LEASES, id, with_claims(lease, 0)) end
  return encode(new)
end

local existing, states, documents = {}, {}, {}
local leases = values_of(LEASES, ids)
for i, before in ipairs(values_of(STATE, ids)) do
  local id, after = ids[i], ARGV[3 * i + 1]
  if before then existing[#existing + 1] = id end
  if replace or not before then
    if before then after = replaced(id, before, after) end
    states[#states + 1] = id
    states[#states + 1] = after
    documents[#documents + 1] = id
    documents[#documents + 1] = ARGV[3 * i + 2]
    reindex(id, before, after)
    place(id, before, after, leases[i])
  end
end
send("HSET", STATE, states)
send("HSET", DOCUMENTS, documents)
move()
return existing
