-- Edits one schedule. ARGV: channel, id, expected revision or "", whether *when* is edited ("1"), number of documents (0 or 1),
-- the document if there is one; name, value of each other field. Returns "missing"; or "conflict", revision; or "ok", record,
-- document.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local id, expected, documents = ARGV[2], ARGV[3], tonumber(ARGV[5])
local TEXTS = { timing = true, last_error = true }

local record = redis.call("HGET", STATE, id)
if not record then return { "missing" } end
local r = decode(record)
if expected ~= "" and tonumber(expected) ~= r.revision then return { "conflict", r.revision } end

local before = index_of(id, r)
r.revision = r.revision + 1
if ARGV[4] == "1" then r.timing_revision = r.revision end
for i = 6 + documents, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  r[name] = TEXTS[name] and value or tonumber(value)
end
record = encode(r)
write("HSET", STATE, id, record)
if documents == 1 then write("HSET", DOCUMENTS, id, ARGV[6]) end
reindex(id, r, before)
place(id, r)
flush()
return { "ok", record, redis.call("HGET", DOCUMENTS, id) or "" }
