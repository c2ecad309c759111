-- Edits one schedule. ARGV: channel, expected revision or "null", whether *when* is edited ("1"); id; name, value of each field.
-- Returns the revision, nothing if there is no such schedule; and ids, records, documents of the one, unless it is at another
-- revision than expected.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local expected, edits = ARGV[2], split(ARGV[4])
local id = table.remove(edits, 1)

local before = redis.call("HGET", STATE, id)
if not before then return { false } end
local r = decode(before)
if expected ~= "null" and expected ~= r.revision then return { tonumber(r.revision) } end

r.revision = increased(r.revision)
if ARGV[3] == "1" then r.timing_revision = r.revision end
for i = 1, #edits, 2 do
  local name, value = edits[i], edits[i + 1]
  if name == "document" then
    write("HSET", DOCUMENTS, id, value)
  else
    r[name] = value
  end
end
local after = encode(r)
change(id, before, after, true)
commit()
return { tonumber(r.revision), unpack(reply_of({ id }, { after })) }
