-- Notes the version of the layout and the number of shards, unless that was done. ARGV: version, shards. Returns what is noted, and
-- what the server tells of itself ("" where it does not tell this user): version, role, whether it keeps an append-only file, and
-- what it does when its memory is full.
local info = redis.pcall("INFO")
if redis.call("EXISTS", META) == 0 then
  redis.call("HSET", META, "version", ARGV[1], "shards", ARGV[2])
end
local reply = redis.call("HMGET", META, "version", "shards")
for _, name in ipairs({ "redis_version", "role", "aof_enabled", "maxmemory_policy" }) do
  reply[#reply + 1] = type(info) == "string" and string.match(info, "\n" .. name .. ":([^\r\n]*)") or ""
end
return reply
