-- Send every plain radiograph that Orthanc receives to the listener of SPIDER.
local radiographs = { CR = true, DX = true, XA = true }

function OnStoredInstance(instanceId, tags, metadata, origin)
  if radiographs[tags['Modality']] then
    SendToModality(instanceId, 'SPIDER')
  end
end
