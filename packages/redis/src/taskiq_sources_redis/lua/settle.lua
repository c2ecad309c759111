-- Records what became of claims, with their history rows. ARGV: channel; then of each outcome: id, head; and of each of its rows:
-- occurrence id, row. The head is number of rows, token, revision of the claim, whether the schedule is finished, whether the lease
-- ends, and what is written to the record. Returns the ids of claims that did not survive.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local parts = split(ARGV[2])
local HEAD = "^(%d+),\n([^\n]+),\n(%d+),\n(%a+),\n(%a+),\n()"

local ids, heads = {}, {}
local position = 1
while position <= #parts do
  ids[#ids + 1], heads[#heads + 1] = parts[position], position + 1
  position = position + 2 + 2 * match(parts[position + 1], "^%d+")
end

local lost, rows, row_ids = {}, {}, {}
for i, record in ipairs(values_of(STATE, ids)) do
  local id, head = ids[i], parts[heads[i]]
  local number, token, revision, finished, release, new_progress = match(head, HEAD)
  if not record or not has_token(record, token) then
    lost[#lost + 1] = id
  else
    for row = heads[i] + 1, heads[i] + 2 * number, 2 do
      if not rows[parts[row]] then row_ids[#row_ids + 1] = parts[row] end
      rows[parts[row]] = parts[row + 1]
    end
    local holds = release == "false"
    local lease_until, flags, paused, timing_revision, progress, next_run_at, quarantined = deciding(record)
    if tonumber(timing_revision) > tonumber(revision) then -- *when* was edited meanwhile: keep the edit, end the lease
      if holds then lost[#lost + 1] = id end
      change(id, record, NO_LEASE .. sub(record, flags), true)
    elseif finished == "true" then
      forget(id, record, lease_until, flags, paused, timing_revision, progress, next_run_at, quarantined)
    else
      local kept = holds and sub(record, 1, progress - 1) or NO_LEASE .. sub(record, flags, progress - 1)
      local _, last = find(record, PROGRESS, progress)
      local after = kept .. sub(head, new_progress) .. ",\n" .. sub(record, last + 1)
      local new_next_run_at, new_quarantined = match(head, "^%d+,\n(%-?%w+),\n(%a+)", new_progress)
      if new_quarantined == quarantined then -- then only the set changes: what change() would find out again
        local from = place_of(lease_until, paused, next_run_at, quarantined)
        move(id, from, place_of(holds and lease_until or "null", paused, new_next_run_at, quarantined))
        write(HSET, STATE, id, after)
      else
        change(id, record, after, true)
      end
    end
  end
end

for i, old in ipairs(values_of(RUNS, row_ids)) do
  local id = row_ids[i]
  if old then each_member_of_run(id, old, unindex_run) end
  each_member_of_run(id, rows[id], index_run)
  write(HSET, RUNS, id, rows[id])
end
write_in_any_case()
return lost
