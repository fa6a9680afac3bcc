package clientapi

import (
	"context"

	"weft/internal/httpapi"
	"weft/matrix/event"
	"weft/matrix/merr"
)

// GetVersions is GET /versions: the versions of the specification whose client
// API is served. r0.6.1 is that of the paths under /r0.
//
// spec: client-server §3.1 (API versions)
func (s *Server) GetVersions(context.Context, *httpapi.Request) (any, error) {
	return map[string]any{
		"versions": []string{"r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
			"v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19"},
		"unstable_features": map[string]bool{},
	}, nil
}

// GetCapabilities is GET /capabilities.
//
// spec: client-server §6 (Capabilities negotiation)
func (s *Server) GetCapabilities(_ context.Context, r *httpapi.Request) (any, error) {
	type enabled struct {
		Enabled bool `json:"enabled"`
	}
	available := map[event.RoomVersion]string{}
	for _, v := range event.Versions() {
		available[v] = "stable"
	}
	caps := map[string]any{
		"m.room_versions":   map[string]any{"default": s.cfg.DefaultRoomVersion, "available": available},
		"m.change_password": enabled{r.Session.Appservice == ""},
		"m.set_displayname": enabled{true},
		"m.set_avatar_url":  enabled{true},
		"m.profile_fields":  enabled{true},
		"m.3pid_changes":    enabled{false},
		"m.get_login_token": enabled{true},
	}
	if r.Session.Admin {
		// spec: client-server §6.8: only for those who may use it
		caps["m.account_moderation"] = map[string]bool{"suspend": true, "lock": true}
	}
	return map[string]any{"capabilities": caps}, nil
}

type baseURL struct {
	BaseURL string `json:"base_url"`
}

// clientWellKnown is the client configuration.
//
// spec: client-server §4.1 (Well-known URIs)
func (s *Server) clientWellKnown() map[string]any {
	w := map[string]any{"m.homeserver": baseURL{s.cfg.WellKnown.ClientBaseURL}}
	if s.cfg.WellKnown.IdentityServerURL != "" {
		w["m.identity_server"] = baseURL{s.cfg.WellKnown.IdentityServerURL}
	}
	return w
}

// GetWellknown is GET /.well-known/matrix/client.
func (s *Server) GetWellknown(context.Context, *httpapi.Request) (any, error) {
	if s.cfg.WellKnown.ClientBaseURL == "" {
		return nil, merr.NotFound("no client configuration is published here")
	}
	return s.clientWellKnown(), nil
}

// GetWellknownSupport is GET /.well-known/matrix/support.
//
// spec: client-server §4.1.3 (Server support)
func (s *Server) GetWellknownSupport(context.Context, *httpapi.Request) (any, error) {
	w := s.cfg.WellKnown
	if w.SupportPage == "" && len(w.SupportContacts) == 0 {
		return nil, merr.NotFound("no support contact is published here")
	}
	return struct {
		Contacts []SupportContact `json:"contacts,omitempty"`
		Page     string           `json:"support_page,omitempty"`
	}{w.SupportContacts, w.SupportPage}, nil
}
