-- Edits one schedule. ARGV: channel, id, expected revision or "", whether *when* is edited ("1"), number of documents (0 or 1),
-- the document if there is one; name, value of each other field. Returns "missing"; or "conflict", revision; or "ok", and ids,
-- records, leases, documents: of the one.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local id, expected, documents = ARGV[2], ARGV[3], tonumber(ARGV[5])

local before = redis.call("HGET", STATE, id)
if not before then return { "missing" } end
local r = decode(before)
if expected ~= "" and tonumber(expected) ~= r.revision then return { "conflict", r.revision } end

local lease = redis.call("HGET", LEASES, id)
r.revision = r.revision + 1
if ARGV[4] == "1" then r.timing_revision = r.revision end
for i = 6 + documents, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  if name == "last_error" then
    r.last_error = value
  elseif name == "timing" then
    local _, rest = struct.unpack("<I4c0", r.texts)
    r.texts = struct.pack("<I4c0", #value, value) .. string.sub(r.texts, rest)
  else
    r[name] = tonumber(value)
    if name == "attempt" and lease then lease = with_claims(lease, 0) end
  end
end
local after = encode(r)
redis.call("HSET", STATE, id, after)
if documents == 1 then redis.call("HSET", DOCUMENTS, id, ARGV[6]) end
if lease then redis.call("HSET", LEASES, id, lease) end
reindex(id, before, after)
place(id, before, after, lease)
move()
return { "ok", unpack(reply_of({ id }, { after }, { lease or false })) }
