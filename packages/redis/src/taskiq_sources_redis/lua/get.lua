-- Reads schedules, records and documents of one instant. ARGV: ids... Returns id, record, document of each that exists.
local documents = values_of(DOCUMENTS, ARGV)
local reply = {}
for i, record in ipairs(values_of(STATE, ARGV)) do
  if record then
    reply[#reply + 1] = ARGV[i]
    reply[#reply + 1] = record
    reply[#reply + 1] = documents[i] or ""
  end
end
return reply
