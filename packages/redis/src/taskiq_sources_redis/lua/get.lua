-- Reads schedules, all of one instant. ARGV: ids. Returns ids, records, documents of those that exist.
local ids, records = {}, {}
local given = split(ARGV[1])
for i, record in ipairs(values_of(STATE, given)) do
  if record then ids[#ids + 1], records[#records + 1] = given[i], record end
end
return reply_of(ids, records)
