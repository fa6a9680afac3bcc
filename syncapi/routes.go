package syncapi

import "weft/internal/httpapi"

const (
	v1 = "/_matrix/client/v1"
	v3 = "/_matrix/client/v3"
)

// Routes lists the component's endpoints.
func (s *Server) Routes() []httpapi.Route {
	user, limited := httpapi.AuthUser, httpapi.LimitDefault
	room := v3 + "/rooms/{roomId}"
	relations := v1 + "/rooms/{roomId}/relations/{eventId}"
	return []httpapi.Route{
		{Method: "GET", Path: v3 + "/sync", Auth: user, Guest: true, Waits: true, Handler: s.Sync},
		{Method: "POST", Path: v3 + "/user/{userId}/filter", Auth: user, Guest: true, Handler: s.DefineFilter},
		{Method: "GET", Path: v3 + "/user/{userId}/filter/{filterId}", Auth: user, Guest: true, Handler: s.GetFilter},
		{Method: "GET", Path: v3 + "/keys/changes", Auth: user, Guest: true, Handler: s.GetKeysChanges},
		{Method: "GET", Path: room + "/messages", Auth: user, Guest: true, Handler: s.GetRoomEvents},
		{Method: "GET", Path: room + "/context/{eventId}", Auth: user, Guest: true, Handler: s.GetEventContext},
		{Method: "GET", Path: room + "/event/{eventId}", Auth: user, Guest: true, Handler: s.GetOneRoomEvent},
		{Method: "GET", Path: room + "/members", Auth: user, Guest: true, Handler: s.GetMembersByRoom},
		{Method: "GET", Path: room + "/joined_members", Auth: user, Guest: true, Handler: s.GetJoinedMembersByRoom},
		{Method: "GET", Path: relations, Auth: user, Guest: true, Handler: s.GetRelatingEvents},
		{Method: "GET", Path: relations + "/{relType}", Auth: user, Guest: true, Handler: s.GetRelatingEvents},
		{Method: "GET", Path: relations + "/{relType}/{eventType}", Auth: user, Guest: true, Handler: s.GetRelatingEvents},
		{Method: "GET", Path: v1 + "/rooms/{roomId}/threads", Auth: user, Limit: limited, Guest: true, Handler: s.GetThreadRoots},
		{Method: "GET", Path: v1 + "/rooms/{roomId}/timestamp_to_event", Auth: user, Limit: limited, Guest: true, Handler: s.GetEventByTimestamp},
		{Method: "GET", Path: v3 + "/notifications", Auth: user, Limit: limited, Handler: s.GetNotifications},
		{Method: "PUT", Path: v3 + "/presence/{userId}/status", Auth: user, Limit: limited, Handler: s.SetPresence},
		{Method: "GET", Path: v3 + "/presence/{userId}/status", Auth: user, Handler: s.GetPresenceStatus},
		{Method: "PUT", Path: room + "/typing/{userId}", Auth: user, Limit: limited, Guest: true, Handler: s.SetTyping},
		{Method: "POST", Path: room + "/receipt/{receiptType}/{eventId}", Auth: user, Limit: limited, Guest: true, Handler: s.PostReceipt},
		{Method: "POST", Path: room + "/read_markers", Auth: user, Limit: limited, Guest: true, Handler: s.PostReadMarkers},
	}
}
