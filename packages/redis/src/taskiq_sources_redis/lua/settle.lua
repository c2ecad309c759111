-- Records what became of claims, with their history rows. ARGV: channel; then of each outcome: id, packed fields; and of each of its
-- rows: occurrence id, row. The fields are token (16 bytes), revision of the claim, finished, release, number of rows (8), what is
-- written to the record (33), last_error. Returns the ids of claims that did not survive.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local parts = split(ARGV[2])

local ids, outcomes = {}, {}
local position = 1
while position <= #parts do
  ids[#ids + 1], outcomes[#outcomes + 1] = parts[position], position + 1
  local low, high = string.byte(parts[position + 1], 23, 24)
  position = position + 2 + 2 * (low + 256 * high)
end

local function settled(record, fields, releases)
  local claimant_length, error_length = struct.unpack("<I4", record, 25), struct.unpack("<I4", record, 57)
  local texts_end = #record - claimant_length
  local definition = string.sub(record, 62, texts_end - error_length)
  local lease = releases and NO_LEASE or string.sub(record, 1, 28)
  local claimant = releases and "" or string.sub(record, texts_end + 1)
  return lease .. string.sub(fields, 25, 57) .. definition .. string.sub(fields, 58) .. claimant
end

local lost, rows, row_ids = {}, {}, {}
for i, record in ipairs(values_of(STATE, ids)) do
  local id, fields = ids[i], parts[outcomes[i]]
  if not record or token_of(record) ~= string.sub(fields, 1, 16) then
    lost[#lost + 1] = id
  else
    local revision, finished, release, number = struct.unpack("<I4BBI2", fields, 17)
    for row = outcomes[i] + 1, outcomes[i] + 2 * number, 2 do
      if not rows[parts[row]] then row_ids[#row_ids + 1] = parts[row] end
      rows[parts[row]] = parts[row + 1]
    end
    if struct.unpack("<I4", record, 67) > revision then -- *when* was edited meanwhile: keep the edit, end the lease
      if release == 0 then lost[#lost + 1] = id end
      change(id, record, NO_LEASE .. body_of(record, 29))
    else
      change(id, record, finished == 0 and settled(record, fields, release ~= 0))
    end
  end
end

for i, old in ipairs(values_of(RUNS, row_ids)) do
  local id = row_ids[i]
  local row = rows[id]
  if old then
    local old_time_and_id = string.sub(old, 5, 12) .. id
    remove("ZREM", RUN_TIMES, old_time_and_id)
    each_member_of_run(old_time_and_id, old, unindex_run)
  end
  local time_and_id = string.sub(row, 5, 12) .. id
  write("ZADD", RUN_TIMES, "0", time_and_id)
  each_member_of_run(time_and_id, row, index_run)
  write("HSET", RUNS, id, row)
end
commit()
return lost
