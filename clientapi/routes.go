package clientapi

import (
	"weft/internal/httpapi"
)

const (
	v1 = "/_matrix/client/v1"
	v3 = "/_matrix/client/v3"
)

// Routes lists the component's endpoints.
func (s *Server) Routes() []httpapi.Route {
	var rows []httpapi.Route
	for _, group := range [][]httpapi.Route{
		s.discoveryRoutes(), s.accountRoutes(), s.deviceRoutes(), s.userDataRoutes(), s.pushRoutes(), s.profileRoutes(),
		s.roomRoutes(), s.directoryRoutes(), s.keyRoutes(), s.otherRoutes(),
	} {
		rows = append(rows, group...)
	}
	for i, row := range rows {
		rows[i].Handler = cleanParams(answerChallenge(row.Handler))
	}
	return rows
}

func (s *Server) discoveryRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/_matrix/client/versions", Handler: s.GetVersions},
		{Method: "GET", Path: v3 + "/capabilities", Auth: httpapi.AuthUser, Limit: httpapi.LimitDefault, Guest: true, Handler: s.GetCapabilities},
		{Method: "GET", Path: "/.well-known/matrix/client", Handler: s.GetWellknown},
		{Method: "GET", Path: "/.well-known/matrix/support", Handler: s.GetWellknownSupport},
	}
}

func (s *Server) accountRoutes() []httpapi.Route {
	user, limited := httpapi.AuthUser, httpapi.LimitDefault
	rows := []httpapi.Route{
		{Method: "POST", Path: v3 + "/register", Limit: httpapi.LimitRegister, Handler: s.Register},
		{Method: "GET", Path: v3 + "/register/available", Limit: limited, Handler: s.CheckUsernameAvailability},
		{Method: "GET", Path: v1 + "/register/m.login.registration_token/validity", Limit: limited, Handler: s.RegistrationTokenValidity},
		{Method: "GET", Path: "/_synapse/admin/v1/register", Limit: limited, Handler: s.GetRegisterNonce},
		{Method: "POST", Path: "/_synapse/admin/v1/register", Limit: limited, Handler: s.RegisterWithSharedSecret},
		{Method: "GET", Path: v3 + "/login", Limit: limited, Handler: s.GetLoginFlows},
		{Method: "POST", Path: v3 + "/login", Limit: httpapi.LimitLogin, Handler: s.Login},
		{Method: "POST", Path: v1 + "/login/get_token", Auth: user, Limit: limited, Handler: s.GenerateLoginToken},
		{Method: "POST", Path: v3 + "/refresh", Limit: limited, Handler: s.Refresh},
		{Method: "POST", Path: v3 + "/logout", Handler: s.Logout},
		{Method: "POST", Path: v3 + "/logout/all", Handler: s.LogoutAll},
		{Method: "GET", Path: v3 + "/account/whoami", Auth: user, Limit: limited, Guest: true, Handler: s.GetTokenOwner},
		{Method: "POST", Path: v3 + "/account/password", Auth: user, Limit: limited, Handler: s.ChangePassword},
		{Method: "POST", Path: v3 + "/account/deactivate", Auth: user, Limit: limited, Handler: s.DeactivateAccount},
		{Method: "GET", Path: v3 + "/account/3pid", Auth: user, Handler: s.GetAccount3PIDs},
		{Method: "POST", Path: v3 + "/account/3pid/delete", Auth: user, Handler: s.RemoveThreepid},
		{Method: "POST", Path: v3 + "/account/3pid/unbind", Auth: user, Handler: s.RemoveThreepid},
	}
	for _, p := range []string{"/account/3pid", "/account/3pid/add", "/account/3pid/bind"} {
		rows = append(rows, httpapi.Route{Method: "POST", Path: v3 + p, Auth: user, Limit: limited, Handler: s.RefuseThreepid})
	}
	for _, p := range []string{"/account/3pid/email", "/account/3pid/msisdn", "/register/email", "/register/msisdn",
		"/account/password/email", "/account/password/msisdn"} {
		rows = append(rows, httpapi.Route{Method: "POST", Path: v3 + p + "/requestToken", Limit: limited, Handler: s.RefuseThreepid})
	}
	return rows
}

func (s *Server) deviceRoutes() []httpapi.Route {
	user := httpapi.AuthUser
	return []httpapi.Route{
		{Method: "GET", Path: v3 + "/devices", Auth: user, Handler: s.GetDevices},
		{Method: "GET", Path: v3 + "/devices/{deviceId}", Auth: user, Handler: s.GetDevice},
		{Method: "PUT", Path: v3 + "/devices/{deviceId}", Auth: user, Handler: s.UpdateDevice},
		{Method: "DELETE", Path: v3 + "/devices/{deviceId}", Auth: user, Handler: s.DeleteDevice},
		{Method: "POST", Path: v3 + "/delete_devices", Auth: user, Handler: s.DeleteDevices},
	}
}

func (s *Server) userDataRoutes() []httpapi.Route {
	user := httpapi.AuthUser
	data, room := v3+"/user/{userId}/account_data/{type}", v3+"/user/{userId}/rooms/{roomId}"
	return []httpapi.Route{
		{Method: "PUT", Path: data, Auth: user, Handler: s.SetAccountDataOf},
		{Method: "GET", Path: data, Auth: user, Handler: s.GetAccountDataOf},
		{Method: "PUT", Path: room + "/account_data/{type}", Auth: user, Handler: s.SetAccountDataOf},
		{Method: "GET", Path: room + "/account_data/{type}", Auth: user, Handler: s.GetAccountDataOf},
		{Method: "GET", Path: room + "/tags", Auth: user, Handler: s.GetRoomTags},
		{Method: "PUT", Path: room + "/tags/{tag}", Auth: user, Handler: s.SetRoomTag},
		{Method: "DELETE", Path: room + "/tags/{tag}", Auth: user, Handler: s.DeleteRoomTag},
	}
}

func (s *Server) pushRoutes() []httpapi.Route {
	user := httpapi.AuthUser
	rules := v3 + "/pushrules"
	rule := rules + "/global/{kind}/{ruleId}"
	return []httpapi.Route{
		{Method: "GET", Path: rules + "/", Auth: user, Handler: s.GetPushRules},
		{Method: "GET", Path: rules, Auth: user, Handler: s.GetPushRules},
		{Method: "GET", Path: rules + "/global/", Auth: user, Handler: s.GetPushRulesGlobal},
		{Method: "GET", Path: rules + "/global", Auth: user, Handler: s.GetPushRulesGlobal},
		{Method: "GET", Path: rule, Auth: user, Handler: s.GetPushRule},
		{Method: "PUT", Path: rule, Auth: user, Limit: httpapi.LimitDefault, Handler: s.SetPushRule},
		{Method: "DELETE", Path: rule, Auth: user, Handler: s.DeletePushRule},
		{Method: "GET", Path: rule + "/enabled", Auth: user, Handler: s.IsPushRuleEnabled},
		{Method: "PUT", Path: rule + "/enabled", Auth: user, Handler: s.SetPushRuleEnabled},
		{Method: "GET", Path: rule + "/actions", Auth: user, Handler: s.GetPushRuleActions},
		{Method: "PUT", Path: rule + "/actions", Auth: user, Handler: s.SetPushRuleActions},
		{Method: "GET", Path: v3 + "/pushers", Auth: user, Handler: s.GetPushers},
		{Method: "POST", Path: v3 + "/pushers/set", Auth: user, Limit: httpapi.LimitDefault, Handler: s.PostPusher},
	}
}

func (s *Server) profileRoutes() []httpapi.Route {
	user, limited := httpapi.AuthUser, httpapi.LimitDefault
	field := v3 + "/profile/{userId}/{keyName}"
	return []httpapi.Route{
		{Method: "GET", Path: v3 + "/profile/{userId}", Handler: s.GetUserProfile},
		{Method: "GET", Path: field, Handler: s.GetProfileField},
		{Method: "PUT", Path: field, Auth: user, Limit: limited, Guest: true, Handler: notSuspended(s.SetProfileField)},
		{Method: "DELETE", Path: field, Auth: user, Limit: limited, Guest: true, Handler: notSuspended(s.DeleteProfileField)},
		{Method: "POST", Path: v3 + "/user_directory/search", Auth: user, Limit: limited, Handler: s.SearchUserDirectory},
	}
}
