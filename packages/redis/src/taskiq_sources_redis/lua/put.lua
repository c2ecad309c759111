-- Stores schedules. ARGV: channel, whether to replace ("1") what exists; id, record as of a new one, document of each.
-- Returns the ids that existed.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local replace, parts = ARGV[2] == "1", split(ARGV[3])
local KEPT = { "token", "lease_until", "claimant", "created_at", "paused" }
local KEPT_WITH_TIMING = {
  "scheduled_for", "next_run_at", "anchor", "coalesced", "attempt", "run_count", "last_error", "timing_revision",
}

-- The definition is the new one's; what has become of the schedule stays, as far as it runs at the same instants.
local function replaced(record, given)
  local old, new = decode(record), decode(given)
  for _, name in ipairs(KEPT) do new[name] = old[name] end
  new.quarantined = "false"
  new.revision = increased(old.revision)
  new.timing_revision = new.revision
  if new.timing == old.timing then
    for _, name in ipairs(KEPT_WITH_TIMING) do new[name] = old[name] end
  end
  return encode(new), old.task_name == new.task_name and old.owner == new.owner
end

local ids, existing = {}, {}
for i = 1, #parts, 3 do ids[#ids + 1] = parts[i] end
for i, before in ipairs(values_of(STATE, ids)) do
  if before then existing[#existing + 1] = ids[i] end
  if replace or not before then
    local given = parts[3 * i - 1]
    if before then
      local after, is_same = replaced(before, given)
      change(ids[i], before, after, is_same)
    else
      change(ids[i], false, given)
    end
    write(HSET, DOCUMENTS, ids[i], parts[3 * i])
  end
end
commit()
return existing
