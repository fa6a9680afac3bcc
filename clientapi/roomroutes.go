package clientapi

import (
	"weft/internal/httpapi"
)

// roomRoutes are the commands to rooms, and their state.
func (s *Server) roomRoutes() []httpapi.Route {
	user, joins := httpapi.AuthUser, httpapi.LimitJoin
	room := v3 + "/rooms/{roomId}"
	return []httpapi.Route{
		{Method: "PUT", Path: room + "/send/{eventType}/{txnId}", Auth: user, Limit: httpapi.LimitMessage, Guest: true, Handler: notSuspended(s.SendMessage)},
		{Method: "PUT", Path: room + "/state/{eventType}/{stateKey}", Auth: user, Limit: httpapi.LimitMessage, Guest: true, Handler: notSuspended(s.SetRoomState)},
		{Method: "PUT", Path: room + "/state/{eventType}", Auth: user, Limit: httpapi.LimitMessage, Guest: true, Handler: notSuspended(s.SetRoomState)},
		{Method: "GET", Path: room + "/state/{eventType}/{stateKey}", Auth: user, Guest: true, Handler: s.GetRoomStateWithKey},
		{Method: "GET", Path: room + "/state/{eventType}", Auth: user, Guest: true, Handler: s.GetRoomStateWithKey},
		{Method: "GET", Path: room + "/state", Auth: user, Guest: true, Handler: s.GetRoomState},
		{Method: "PUT", Path: room + "/redact/{eventId}/{txnId}", Auth: user, Limit: httpapi.LimitMessage, Guest: true, Handler: s.RedactEvent},
		{Method: "POST", Path: v3 + "/createRoom", Auth: user, Limit: joins, Handler: notSuspended(s.CreateRoom)},
		{Method: "POST", Path: v3 + "/join/{roomIdOrAlias}", Auth: user, Limit: joins, Guest: true, Handler: notSuspended(s.JoinRoom)},
		{Method: "POST", Path: room + "/join", Auth: user, Limit: joins, Guest: true, Handler: notSuspended(s.JoinRoomByID)},
		{Method: "POST", Path: v3 + "/knock/{roomIdOrAlias}", Auth: user, Limit: joins, Guest: true, Handler: notSuspended(s.KnockRoom)},
		{Method: "POST", Path: room + "/leave", Auth: user, Limit: httpapi.LimitDefault, Guest: true, Handler: s.LeaveRoom},
		{Method: "POST", Path: room + "/forget", Auth: user, Limit: httpapi.LimitDefault, Guest: true, Handler: s.ForgetRoom},
		{Method: "POST", Path: room + "/invite", Auth: user, Limit: joins, Handler: notSuspended(s.InviteUser)},
		{Method: "POST", Path: room + "/kick", Auth: user, Limit: httpapi.LimitDefault, Handler: notSuspended(s.Kick)},
		{Method: "POST", Path: room + "/ban", Auth: user, Limit: httpapi.LimitDefault, Handler: notSuspended(s.Ban)},
		{Method: "POST", Path: room + "/unban", Auth: user, Limit: httpapi.LimitDefault, Handler: notSuspended(s.Unban)},
		{Method: "POST", Path: room + "/upgrade", Auth: user, Limit: joins, Handler: notSuspended(s.UpgradeRoom)},
		{Method: "GET", Path: v3 + "/joined_rooms", Auth: user, Guest: true, Handler: s.GetJoinedRooms},
		{Method: "GET", Path: v1 + "/room_summary/{roomIdOrAlias}", Auth: httpapi.AuthUserOptional, Limit: httpapi.LimitDefault, Guest: true, Handler: s.GetRoomSummary},
		{Method: "GET", Path: v1 + "/rooms/{roomId}/hierarchy", Auth: user, Limit: httpapi.LimitDefault, Handler: s.GetSpaceHierarchy},
		{Method: "GET", Path: v1 + "/mutual_rooms", Auth: user, Limit: httpapi.LimitDefault, Handler: s.GetMutualRooms},
		{Method: "POST", Path: room + "/report", Auth: user, Limit: httpapi.LimitDefault, Handler: s.ReportRoom},
		{Method: "POST", Path: room + "/report/{eventId}", Auth: user, Limit: httpapi.LimitDefault, Handler: s.ReportEvent},
		{Method: "POST", Path: v3 + "/users/{userId}/report", Auth: user, Limit: httpapi.LimitDefault, Handler: s.ReportUser},
	}
}

func (s *Server) directoryRoutes() []httpapi.Route {
	user := httpapi.AuthUser
	alias, list := v3+"/directory/room/{roomAlias}", v3+"/directory/list/room/{roomId}"
	return []httpapi.Route{
		{Method: "GET", Path: alias, Handler: s.GetRoomIDByAlias},
		{Method: "PUT", Path: alias, Auth: user, Handler: notSuspended(s.SetRoomAlias)},
		{Method: "DELETE", Path: alias, Auth: user, Handler: s.DeleteRoomAlias},
		{Method: "GET", Path: v3 + "/rooms/{roomId}/aliases", Auth: user, Limit: httpapi.LimitDefault, Guest: true, Handler: s.GetLocalAliases},
		{Method: "GET", Path: list, Handler: s.GetRoomVisibility},
		{Method: "PUT", Path: list, Auth: user, Handler: notSuspended(s.SetRoomVisibility)},
		{Method: "GET", Path: v3 + "/publicRooms", Handler: s.GetPublicRooms},
		{Method: "POST", Path: v3 + "/publicRooms", Auth: user, Guest: true, Handler: s.QueryPublicRooms},
	}
}

func (s *Server) keyRoutes() []httpapi.Route {
	user, limited := httpapi.AuthUser, httpapi.LimitDefault
	rows := []httpapi.Route{
		{Method: "POST", Path: v3 + "/keys/upload", Auth: user, Guest: true, Handler: s.UploadKeys},
		{Method: "POST", Path: v3 + "/keys/query", Auth: user, Guest: true, Handler: s.QueryKeys},
		{Method: "POST", Path: v3 + "/keys/claim", Auth: user, Guest: true, Handler: s.ClaimKeys},
		{Method: "POST", Path: v3 + "/keys/device_signing/upload", Auth: user, Handler: s.UploadCrossSigningKeys},
		{Method: "POST", Path: v3 + "/keys/signatures/upload", Auth: user, Handler: s.UploadSignatures},
		{Method: "PUT", Path: v3 + "/sendToDevice/{eventType}/{txnId}", Auth: user, Guest: true, MaxBody: maxBackupBody, Handler: s.SendToDevice},
		{Method: "POST", Path: v3 + "/room_keys/version", Auth: user, Limit: limited, Handler: s.PostRoomKeysVersion},
		{Method: "GET", Path: v3 + "/room_keys/version", Auth: user, Limit: limited, Handler: s.GetRoomKeysVersion},
		{Method: "GET", Path: v3 + "/room_keys/version/{version}", Auth: user, Limit: limited, Handler: s.GetRoomKeysVersion},
		{Method: "PUT", Path: v3 + "/room_keys/version/{version}", Auth: user, Limit: limited, Handler: s.PutRoomKeysVersion},
		{Method: "DELETE", Path: v3 + "/room_keys/version/{version}", Auth: user, Limit: limited, Handler: s.DeleteRoomKeysVersion},
	}
	for _, part := range []string{"", "/{roomId}", "/{roomId}/{sessionId}"} {
		path := v3 + "/room_keys/keys" + part
		rows = append(rows,
			httpapi.Route{Method: "PUT", Path: path, Auth: user, Limit: limited, MaxBody: maxBackupBody, Handler: s.PutRoomKeys},
			httpapi.Route{Method: "GET", Path: path, Auth: user, Limit: limited, Handler: s.GetRoomKeys},
			httpapi.Route{Method: "DELETE", Path: path, Auth: user, Limit: limited, Handler: s.DeleteRoomKeys})
	}
	return rows
}

func (s *Server) otherRoutes() []httpapi.Route {
	user, limited := httpapi.AuthUser, httpapi.LimitDefault
	third := v3 + "/thirdparty"
	return []httpapi.Route{
		{Method: "POST", Path: v3 + "/user/{userId}/openid/request_token", Auth: user, Limit: limited, Handler: s.RequestOpenIDToken},
		{Method: "GET", Path: v3 + "/voip/turnServer", Auth: user, Limit: limited, Guest: true, Handler: s.GetTurnServer},
		{Method: "GET", Path: third + "/protocols", Auth: user, Handler: s.GetProtocols},
		{Method: "GET", Path: third + "/protocol/{protocol}", Auth: user, Handler: s.GetProtocol},
		{Method: "GET", Path: third + "/location/{protocol}", Auth: user, Handler: s.GetProtocol},
		{Method: "GET", Path: third + "/user/{protocol}", Auth: user, Handler: s.GetProtocol},
		{Method: "GET", Path: third + "/location", Auth: user, Handler: s.QueryThirdParty},
		{Method: "GET", Path: third + "/user", Auth: user, Handler: s.QueryThirdParty},
		{Method: "GET", Path: v3 + "/admin/whois/{userId}", Auth: user, Handler: s.GetWhoIs},
		{Method: "GET", Path: v1 + "/admin/suspend/{userId}", Auth: user, Handler: s.GetSuspended},
		{Method: "PUT", Path: v1 + "/admin/suspend/{userId}", Auth: user, Handler: s.SetSuspended},
		{Method: "GET", Path: v1 + "/admin/lock/{userId}", Auth: user, Handler: s.GetLocked},
		{Method: "PUT", Path: v1 + "/admin/lock/{userId}", Auth: user, Handler: s.SetLocked},
	}
}
