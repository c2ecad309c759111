-- Records what became of claims, with their history rows. ARGV: channel; then of each outcome: id, token, packed fields,
-- last_error, number of rows, and of each row: occurrence id, row. The fields are the first of a record (29 bytes), then the
-- revision of the claim, finished, release. Returns the ids of claims that did not survive.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written

local ids, outcomes = {}, {}
local position = 2
while position <= #ARGV do
  ids[#ids + 1] = ARGV[position]
  outcomes[#outcomes + 1] = position
  position = position + 5 + 2 * ARGV[position + 4]
end

local lost, states, ended, kept, rows, row_ids = {}, {}, {}, {}, {}, {}
local leases = values_of(LEASES, ids)
for i, record in ipairs(values_of(STATE, ids)) do
  local id, lease, first = ids[i], leases[i], outcomes[i]
  if not record or not lease or token_of(lease) ~= ARGV[first + 1] then
    lost[#lost + 1] = id
  else
    for row = first + 5, first + 3 + 2 * ARGV[first + 4], 2 do
      if not rows[ARGV[row]] then row_ids[#row_ids + 1] = ARGV[row] end
      rows[ARGV[row]] = ARGV[row + 1]
    end
    local fields = ARGV[first + 2]
    local revision, finished, release = struct.unpack("<I4BB", fields, 30)
    if struct.unpack("<I4", record, 35) > revision then -- *when* was edited meanwhile: keep the edit, end the lease
      if release == 0 then lost[#lost + 1] = id end
      local r = decode(record)
      r.attempt = r.attempt + claims_of(lease)
      states[#states + 1] = id
      states[#states + 1] = encode(r)
      ended[#ended + 1] = id
      place(id, record, record, nil)
    elseif finished ~= 0 then
      drop(id, record)
    else
      local texts_end = TEXTS - 1 + struct.unpack("<I4", record, 63)
      local after = string.sub(fields, 1, 29) .. string.sub(record, 30, texts_end) .. ARGV[first + 3]
      states[#states + 1] = id
      states[#states + 1] = after
      if release ~= 0 then
        lease = nil
        ended[#ended + 1] = id
      else
        kept[#kept + 1] = id
        kept[#kept + 1] = with_claims(lease, 0)
      end
      if string.byte(after, 29) ~= string.byte(record, 29) then reindex(id, record, after) end
      place(id, record, after, lease)
    end
  end
end
move()
send("HDEL", LEASES, ended)
send("HSET", LEASES, kept)
send("HSET", STATE, states)

local outdated, members, pairs_ = {}, {}, {}
for i, old in ipairs(values_of(RUNS, row_ids)) do
  local id, row = row_ids[i], rows[row_ids[i]]
  for _, member in ipairs(old and index_of_run(id, old) or {}) do outdated[#outdated + 1] = member end
  for _, member in ipairs(index_of_run(id, row)) do
    members[#members + 1] = 0
    members[#members + 1] = member
  end
  pairs_[2 * i - 1], pairs_[2 * i] = id, row
end
send("ZREM", RUNS_INDEX, outdated)
send("ZADD", RUNS_INDEX, members)
send("HSET", RUNS, pairs_)
return lost
