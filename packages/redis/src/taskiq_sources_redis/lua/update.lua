-- Edits one schedule. ARGV: channel, expected revision or "null"; id; name, value of each field. Returns the revision that it was
-- at, nothing if there is no such schedule; and ids, records, documents of the one, unless that is not the revision expected.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local expected, edits = ARGV[2], split(ARGV[3])
local WHEN = { timing = true, scheduled_for = true, next_run_at = true }
local id = table.remove(edits, 1)

local before = redis.call("HGET", STATE, id)
if not before then return { false } end
local r = decode(before)
local found = tonumber(r.revision)
if expected ~= "null" and expected ~= r.revision then return { found } end

r.revision = increased(found)
for i = 1, #edits, 2 do
  local name, value = edits[i], edits[i + 1]
  if name == "document" then
    write(HSET, DOCUMENTS, id, value)
  else
    r[name] = value
    if WHEN[name] then r.timing_revision = r.revision end
  end
end
local after = encode(r)
change(id, before, after, true)
commit()
return { found, unpack(reply_of({ id }, { after }, documents_of({ id }))) }
