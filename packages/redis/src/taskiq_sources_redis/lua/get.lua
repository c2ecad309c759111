-- Reads schedules. ARGV: ids. Returns those that it has not come to, because the answer is large enough; 0; and ids, records,
-- documents of those that exist.
local given = split(ARGV[1])
local read = documents_of(given)
local ids, records, documents = {}, {}, {}
for i, record in ipairs(values_of(STATE, given)) do
  if record and i <= #read then
    local n = #ids + 1
    ids[n], records[n], documents[n] = given[i], record, read[i]
  end
end
return { table.concat(given, SEPARATOR, #read + 1), 0, unpack(reply_of(ids, records, documents)) }
