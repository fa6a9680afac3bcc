package federationapi

import (
	"context"
	"crypto/ed25519"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	accountapi "weft/clientapi/api"
	"weft/federationapi/api"
	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/fedclient/keyring"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/internal/upkeep"
	keyapi "weft/keyserver/api"
	"weft/matrix/id"
	roomapi "weft/roomserver/api"
	syncapi "weft/syncapi/api"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Transport sends transactions. *fedclient.Client implements it.
type Transport interface {
	SendTransaction(ctx context.Context, server id.Server, t fedclient.Transaction) (map[id.Event]string, error)
	MarkAlive(s id.Server)
}

// Notary knows other servers' keys. *keyring.Keyring implements it.
type Notary interface {
	ServerKeys(ctx context.Context, server id.Server, minValidUntil int64, keys ...id.KeyID) (*keyring.ServerKeys, error)
}

// OldKey is a key that this server signed with in the past.
type OldKey struct {
	ID      id.KeyID
	Public  ed25519.PublicKey
	Expired int64 // ms
}

// Config is what a Server needs.
type Config struct {
	DB         *sqldb.DB
	Events     *eventstore.Reader
	Tail       *eventstore.Tail // over Events
	Bus        bus.Bus
	Log        *logrus.Entry
	Now        func() time.Time
	ServerName id.Server
	KeyID      id.KeyID
	PrivateKey ed25519.PrivateKey
	OldKeys    []OldKey
	// Version is told to whoever asks.
	Version   string
	Transport Transport
	Notary    Notary
	// WellKnown is where other servers find this one, HOST:PORT; empty: the
	// document is not served.
	WellKnown string

	Rooms     roomapi.Federation
	Directory roomapi.Directory
	Keys      keyapi.Keys
	ToDevice  keyapi.ToDevice
	Sync      syncapi.Sync
	Accounts  accountapi.Accounts

	Metrics prometheus.Registerer // may be nil
	Upkeep  *upkeep.Keeper        // may be nil: nothing is removed
	// Shares tells which shards of the destinations this process sends to; nil: all.
	Shares Shares
	Limits Limits
}

// Server is the federation API.
type Server struct {
	Config
	out     *outbound
	inTxns  txnGate
	keyJSON cachedKeys
}

var _ api.Outbound = (*Server)(nil)

// New makes a federation API and brings its tables up to date.
func New(ctx context.Context, cfg Config) (*Server, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("federationapi: embedded migrations: %w", err)
	}
	if err := cfg.DB.Migrate(ctx, "federationapi", dir); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{Config: cfg, inTxns: newTxnGate()}
	if s.out, err = newOutbound(ctx, &s.Config); err != nil {
		return nil, err
	}
	cfg.Upkeep.Add(s.upkeep()...)
	return s, nil
}

// Run sends to other servers until ctx ends.
func (s *Server) Run(ctx context.Context) error { return s.out.run(ctx) }

// DestinationAlive implements api.Outbound.
func (s *Server) DestinationAlive(_ context.Context, server id.Server) error {
	s.Transport.MarkAlive(server)
	s.out.alive(server)
	return nil
}

// SendEDU implements api.Outbound.
func (s *Server) SendEDU(ctx context.Context, edu api.EDU) error { return s.out.sendEDU(ctx, edu) }

// maxJSONBody bounds requests that carry events: 50 PDUs of 64 KiB and 100 EDUs.
const maxJSONBody = 16 << 20

// Routes are the endpoints for other servers.
func (s *Server) Routes() []httpapi.Route {
	const v1, v2, key = "/_matrix/federation/v1", "/_matrix/federation/v2", "/_matrix/key/v2"
	get, put, post := http.MethodGet, http.MethodPut, http.MethodPost
	routes := []httpapi.Route{
		{Method: put, Path: v1 + "/send/{txnId}", MaxBody: maxJSONBody, Handler: s.SendTransaction},
		{Method: get, Path: v1 + "/event/{eventId}", Handler: s.GetEvent},
		{Method: get, Path: v1 + "/state/{roomId}", Handler: s.GetRoomState},
		{Method: get, Path: v1 + "/state_ids/{roomId}", Handler: s.GetRoomStateIDs},
		{Method: get, Path: v1 + "/event_auth/{roomId}/{eventId}", Handler: s.GetEventAuthorization},
		{Method: get, Path: v1 + "/backfill/{roomId}", Handler: s.BackfillRoom},
		{Method: post, Path: v1 + "/get_missing_events/{roomId}", Handler: s.GetMissingPreviousEvents},
		{Method: get, Path: v1 + "/timestamp_to_event/{roomId}", Handler: s.GetEventByTimestamp},
		{Method: get, Path: v1 + "/hierarchy/{roomId}", Handler: s.GetSpaceHierarchy},
		{Method: get, Path: v1 + "/make_join/{roomId}/{userId}", Handler: s.MakeJoin},
		{Method: put, Path: v1 + "/send_join/{roomId}/{eventId}", Handler: s.SendJoinV1},
		{Method: put, Path: v2 + "/send_join/{roomId}/{eventId}", Handler: s.SendJoinV2},
		{Method: get, Path: v1 + "/make_leave/{roomId}/{userId}", Handler: s.MakeLeave},
		{Method: put, Path: v1 + "/send_leave/{roomId}/{eventId}", Handler: s.SendLeaveV1},
		{Method: put, Path: v2 + "/send_leave/{roomId}/{eventId}", Handler: s.SendLeaveV2},
		{Method: get, Path: v1 + "/make_knock/{roomId}/{userId}", Handler: s.MakeKnock},
		{Method: put, Path: v1 + "/send_knock/{roomId}/{eventId}", Handler: s.SendKnock},
		{Method: put, Path: v1 + "/invite/{roomId}/{eventId}", Handler: s.SendInviteV1},
		{Method: put, Path: v2 + "/invite/{roomId}/{eventId}", Handler: s.SendInviteV2},
		{Method: get, Path: v1 + "/query/directory", Handler: s.QueryRoomDirectory},
		{Method: get, Path: v1 + "/query/profile", Handler: s.QueryProfile},
		{Method: get, Path: v1 + "/publicRooms", Handler: s.GetPublicRooms},
		{Method: post, Path: v1 + "/publicRooms", Handler: s.QueryPublicRooms},
		{Method: get, Path: v1 + "/user/devices/{userId}", Handler: s.GetUserDevices},
		{Method: post, Path: v1 + "/user/keys/query", Handler: s.QueryUserKeys},
		{Method: post, Path: v1 + "/user/keys/claim", Handler: s.ClaimUserEncryptionKeys},
	}
	for i := range routes {
		routes[i].Auth = httpapi.AuthServer
		routes[i].Handler = s.heard(routes[i].Handler)
	}
	routes = append(routes,
		httpapi.Route{Method: get, Path: v1 + "/version", Handler: s.GetVersion},
		httpapi.Route{Method: get, Path: v1 + "/openid/userinfo", Handler: s.ExchangeOpenIDToken},
		httpapi.Route{Method: get, Path: key + "/server", Handler: s.GetServerKey},
		httpapi.Route{Method: get, Path: key + "/server/{keyId}", Handler: s.GetServerKey},
		httpapi.Route{Method: get, Path: key + "/query/{serverName}", Limit: httpapi.LimitDefault, Handler: s.PerspectivesKeyQuery},
		httpapi.Route{Method: post, Path: key + "/query", Limit: httpapi.LimitDefault, Handler: s.BulkPerspectivesKeyQuery},
	)
	if s.WellKnown != "" {
		routes = append(routes, httpapi.Route{Method: get, Path: "/.well-known/matrix/server",
			Handler: func(context.Context, *httpapi.Request) (any, error) {
				return map[string]string{"m.server": s.WellKnown}, nil
			}})
	}
	return routes
}

// heard notes, before a request is carried out, that the server that sent it is
// there.
func (s *Server) heard(h httpapi.Handler) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		if err := s.DestinationAlive(ctx, r.Origin); err != nil {
			return nil, err
		}
		return h(ctx, r)
	}
}

// raw is a response that is JSON already.
func raw(b json.RawMessage) *httpapi.Response { return &httpapi.Response{Raw: b} }
