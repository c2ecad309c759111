-- Stores schedules. ARGV: channel, whether to replace ("1") what exists; id, record as of a new one, document of each.
-- Returns the ids that existed.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local replace = ARGV[2] == "1"
local ids = {}
for i = 3, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end

local existing = {}
for i, record in ipairs(values_of(STATE, ids)) do
  local id, given, document = ids[i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  if record then existing[#existing + 1] = id end
  if not record then
    local new = decode(given)
    write("HSET", STATE, id, given)
    write("HSET", DOCUMENTS, id, document)
    reindex(id, new)
    place(id, new, true)
  elseif replace then
    local old, new = decode(record), decode(given)
    new.created_at, new.paused, new.quarantined = old.created_at, old.paused, 0
    new.lease_until, new.token, new.claimant = old.lease_until, old.token, old.claimant
    new.revision = old.revision + 1
    new.timing_revision = new.revision
    if new.timing == old.timing then
      new.scheduled_for, new.next_run_at, new.anchor, new.coalesced = old.scheduled_for, old.next_run_at, old.anchor, old.coalesced
      new.attempt, new.run_count, new.last_error = old.attempt, old.run_count, old.last_error
      new.timing_revision = old.timing_revision
    end
    write("HSET", STATE, id, encode(new))
    write("HSET", DOCUMENTS, id, document)
    reindex(id, new, index_of(id, old))
    place(id, new)
  end
end
flush()
return existing
