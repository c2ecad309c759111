-- Records what became of claims, with their history rows. ARGV: channel; then of each outcome: id, token, packed fields,
-- last_error, number of rows, and of each row: occurrence id, row. Returns the ids of claims that did not survive.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written

local ids, outcomes = {}, {}
local position = 2
while position <= #ARGV do
  local rows = tonumber(ARGV[position + 4])
  ids[#ids + 1] = ARGV[position]
  outcomes[#outcomes + 1] = position
  position = position + 5 + 2 * rows
end

local lost, rows, row_ids = {}, {}, {}
for i, record in ipairs(values_of(STATE, ids)) do
  local id, first = ids[i], outcomes[i]
  local token = ARGV[first + 1]
  local r = record and decode(record)
  if not r or token == "" or r.token ~= token then
    lost[#lost + 1] = id
  else
    local next_run_at, scheduled_for, coalesced, attempt, run_count, revision, quarantined, finished, release =
      struct.unpack("<ddI4I4I4I4BBB", ARGV[first + 2])
    for row = first + 5, first + 3 + 2 * tonumber(ARGV[first + 4]), 2 do
      if not rows[ARGV[row]] then row_ids[#row_ids + 1] = ARGV[row] end
      rows[ARGV[row]] = ARGV[row + 1]
    end
    local rescheduled = r.timing_revision > revision
    if finished ~= 0 and not rescheduled then
      drop(id, r)
    else
      if not rescheduled then
        local before = quarantined ~= r.quarantined and index_of(id, r)
        r.next_run_at, r.scheduled_for, r.coalesced, r.attempt = next_run_at, scheduled_for, coalesced, attempt
        r.run_count, r.last_error, r.quarantined = run_count, ARGV[first + 3], quarantined
        if before then reindex(id, r, before) end
      end
      if release ~= 0 or rescheduled then r.lease_until, r.token, r.claimant = UNLEASED, "", "" end
      if release == 0 and rescheduled then lost[#lost + 1] = id end
      write("HSET", STATE, id, encode(r))
      place(id, r)
    end
  end
end

for i, old in ipairs(values_of(RUNS, row_ids)) do
  local row = rows[row_ids[i]]
  if old then
    for _, member in ipairs(index_of_run(row_ids[i], old)) do write("ZREM", RUNS_INDEX, member) end
  end
  write("HSET", RUNS, row_ids[i], row)
  for _, member in ipairs(index_of_run(row_ids[i], row)) do write("ZADD", RUNS_INDEX, 0, member) end
end
flush()
return lost
