-- Deletes schedules; their history stays. ARGV: channel, ids. Returns the ids that existed.
redis.call("PUBLISH", ARGV[1], "") -- first: who may not publish learns of it before anything is written
local ids = split(ARGV[2])
local existing = {}
for i, record in ipairs(values_of(STATE, ids)) do
  if record then
    existing[#existing + 1] = ids[i]
    forget(ids[i], record, deciding(record))
  end
end
commit()
return existing
