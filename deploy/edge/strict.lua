-- Refuses what the transcoder would pass over in silence: fields of a body that the contract does not have, and query
-- parameters that contradict the path. Whether the JSON is JSON and fits is for the transcoder to say.
--
-- `contract` stands before this text, made from the contract (dev/strict.py):
--   contract.bindings  list of {verb, pattern of the path, the fields in it, type of the body or nil}
--   contract.types     type -> field, in either spelling -> its type, or true for one that has no fields

local DEEPEST = 64

-- The position after a string that begins at a position, or nil.
local function after_string(text, position)
  while true do
    position = text:find('["\\]', position + 1)
    if not position then return nil end
    if text:byte(position) == 34 then return position + 1 end
    position = position + 1
  end
end

-- The position after the value that begins at a position, or nil where it is no JSON; and the first field that its type
-- does not have.
local function after_value(text, position, kind, depth)
  position = text:find("[^ \t\r\n]", position)
  if not position then return nil end
  if depth > DEEPEST then return nil, "too deep" end
  local first = text:sub(position, position)
  if first == '"' then return after_string(text, position) end
  if first == "[" then
    local _, numbers = text:find("^[%s%d,-]*%]", position + 1)
    if numbers then return numbers + 1 end
  elseif first ~= "{" then
    local _, last = text:find("^[^%s,%]}]+", position)
    return last and last + 1
  end
  local fields = type(kind) == "string" and contract.types[kind]
  local closing = first == "{" and "}" or "]"
  position = text:find("[^ \t\r\n]", position + 1)
  while position and text:sub(position, position) ~= closing do
    local inner, unknown = kind, nil
    if first == "{" then
      local stop = after_string(text, position)
      if not stop then return nil end
      local name = text:sub(position + 1, stop - 2)
      if fields then
        inner = fields[name]
        if inner == nil then
          return nil, string.format('Could not find field "%s" in the type "%s".', name:sub(1, 100), kind)
        end
      end
      position = text:match("^[ \t\r\n]*:()", stop)
      if not position then return nil end
    end
    position, unknown = after_value(text, position, inner, depth + 1)
    if not position then return nil, unknown end
    position = text:match("^[ \t\r\n]*,?[ \t\r\n]*()", position)
    if position > #text then return nil end
  end
  return position and position + 1
end

-- The first query parameter that names a field of the path, or nil.
local function contradiction(query, taken)
  for pair in query:gmatch("[^&]+") do
    local name = pair:match("^[^=]*"):gsub("%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end)
    if taken[name] then return name end
  end
end

local function binding_of(verb, path)
  for _, binding in ipairs(contract.bindings) do
    if binding.verb == verb and path:find(binding.path) then return binding end
  end
end

function envoy_on_request(handle)
  local path, query = handle:headers():get(":path"):match("^([^?]*)%??(.*)$")
  local binding = binding_of(handle:headers():get(":method"), path)
  if not binding then return end
  local name = contradiction(query, binding.taken)
  if name then
    handle:respond({[":status"] = "400"}, string.format('The path has the field "%s" already.', name:sub(1, 100)))
    return
  end
  if not binding.body then return end
  local body = handle:body()
  if not body then return end
  local text = body:getBytes(0, body:length())
  local _, unknown = after_value(text, 1, binding.body, 0)
  if unknown then handle:respond({[":status"] = "400"}, unknown) end
end
