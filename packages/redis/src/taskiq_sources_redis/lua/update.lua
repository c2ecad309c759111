-- Edits one schedule. ARGV: channel, id, expected revision or "", whether *when* is edited ("1"); name, value of each field.
-- Returns "missing"; or "conflict", revision; or "ok", and ids, records, documents: of the one.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local id, expected, edits = ARGV[2], ARGV[3], split(ARGV[5])

local before = redis.call("HGET", STATE, id)
if not before then return { "missing" } end
local r = decode(before)
if expected ~= "" and tonumber(expected) ~= r.revision then return { "conflict", r.revision } end

r.revision = r.revision + 1
if ARGV[4] == "1" then r.timing_revision = r.revision end
for i = 1, #edits, 2 do
  local name, value = edits[i], edits[i + 1]
  if name == "document" then
    write("HSET", DOCUMENTS, id, value)
  else
    r[name] = (name == "last_error" or name == "timing") and value or tonumber(value)
  end
end
local after = encode(r)
change(id, before, after)
commit()
return { "ok", unpack(reply_of({ id }, { after })) }
