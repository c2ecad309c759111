-- Notes the version of the layout and the number of shards, unless that was done. ARGV: version, shards.
-- Returns what is noted, and what the server tells of itself: nothing, if it does not tell this user.
local info = redis.pcall("INFO")
if redis.call("EXISTS", META) == 0 then
  redis.call("HSET", META, "version", ARGV[1], "shards", ARGV[2])
end
local noted = redis.call("HMGET", META, "version", "shards")
return { noted[1], noted[2], type(info) == "string" and info or "" }
