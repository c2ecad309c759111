-- Notes the version of the layout and the number of shards, unless that was done, and checks what the server tells of itself, as
-- far as it tells this user. ARGV: version, shards, oldest version of Redis. Returns of each finding what kind of error it is, or
-- "warning"; and what is wrong.
local info = redis.pcall("INFO")
if redis.call("EXISTS", META) == 0 then
  redis.call("HSET", META, "version", ARGV[1], "shards", ARGV[2])
end

local findings = {}
local function note(kind, text, ...)
  findings[#findings + 1] = { kind, string.format(text, ...) }
end
local function told(name)
  return type(info) == "string" and match(info, "\n" .. name .. ":([^\r\n]*)") or nil
end

local function comparable(some_version)
  local major, minor = match(some_version, "^(%d+)%.(%d+)")
  return major * 1000 + minor
end

local version, shards = unpack(redis.call("HMGET", META, "version", "shards"))
if tonumber(version) > tonumber(ARGV[1]) then
  note("schema", "has schema version %s in %s; this release knows %s: upgrade it", version, META, ARGV[1])
elseif tonumber(version) < tonumber(ARGV[1]) then
  note("schema", "has schema version %s in %s, which this release cannot read: use another prefix, or delete its keys", version, META)
end
if shards ~= ARGV[2] then
  note("shards", "the schedules of this prefix are spread over %s: use that, or another prefix", shards)
end
local redis_version = told("redis_version")
if redis_version and comparable(redis_version) < comparable(ARGV[3]) then
  note("version", "is version %s; %s or later is needed", redis_version, ARGV[3])
end
if told("role") == "slave" then note("role", "is a read-only replica; connect to the master") end
if told("aof_enabled") == "0" then
  note("warning", "keeps no append-only file: when it restarts, schedules written since its last snapshot are gone, and what was "
    .. "sent since then is sent again. Set 'appendonly yes'.")
end
local policy = told("maxmemory_policy")
if policy and policy ~= "noeviction" then
  note("warning", "may evict schedules when its memory is full (maxmemory-policy %s). Set 'maxmemory-policy noeviction'.", policy)
end
return findings
