package setup

import (
	"path/filepath"
	"time"
)

// Config is the whole configuration. A field's tags: yaml is its key, flag its
// command line flag (where it has one), doc its meaning, secret hides its value.
type Config struct {
	ServerName string `yaml:"server_name" flag:"server-name" doc:"The domain in user and room IDs. It cannot be changed once the server has been used. Further processes on the same PostgreSQL database may leave it out: they take it, and the other settings that belong to the server and not to a process, from the database."`
	DataDir    string `yaml:"data_dir" flag:"data" doc:"Folder of the signing key, the SQLite database and media."`
	Database   string `yaml:"database" flag:"database" secret:"url" doc:"sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME. Empty: sqlite:weft.db in data_dir. The URL may name several hosts (postgres://USER:PASSWORD@A,B/NAME): the one that takes writes is used. Connections get a lock_timeout of 3 s (five times) and an idle_in_transaction_session_timeout of 4 s, among others, unless the URL sets them (?lock_timeout=2s); the first should be the shorter. Through a pooler that refuses such parameters (pgbouncer) add ?timeouts=off and set them with ALTER ROLE: without them a frozen process can stop all others that share the database."`
	// DatabaseConnections bounds the pool.
	DatabaseConnections int `yaml:"database_connections" doc:"The most connections to PostgreSQL, or readers of SQLite. 0: chosen by the number of processors. On PostgreSQL a process has one more, for its heartbeats."`
	// DatabaseReplicas serve what never changes.
	DatabaseReplicas []string `yaml:"database_replicas" secret:"yes" doc:"postgres://USER:PASSWORD@HOST/NAME of standbys by streaming replication of a PostgreSQL database, one host each. They serve what never changes (the JSON of events, nodes of room states, media), in turn, by as many connections each as database_connections allows; what they lack, and all else, is read on the primary, so it does not matter how far behind they are. One that fails, or takes longer than 500 ms, is left alone for a while. One of another database is refused."`
	SigningKey       string   `yaml:"signing_key" doc:"File of the server's signing key; made at the first start. Empty: signing.key in data_dir. With PostgreSQL the key is in the database; a file that is there at the first start is taken up."`

	Listeners       []Listener `yaml:"listeners" doc:"Addresses to serve all APIs on."`
	AdminListen     string     `yaml:"admin_listen" flag:"admin-listen" doc:"Address of /metrics, /health and /health/live, in plain HTTP. Empty: none."`
	TrustedProxies  []string   `yaml:"trusted_proxies" doc:"Addresses or ranges of proxies whose X-Forwarded-For is believed."`
	MaxRequests     int        `yaml:"max_requests" doc:"Requests worked on at the same time; more are refused with 503. Sleeping /sync requests are not counted."`
	ShutdownTimeout Duration   `yaml:"shutdown_timeout" doc:"How long a stop waits for requests to end."`
	ShutdownDelay   Duration   `yaml:"shutdown_delay" doc:"For how long a process that is told to stop goes on answering requests while /health says that it stops, so that balancers send no more: longer than they take to notice, and well below the time after which whoever told it kills it. Only where other processes of the server are there to take over; one that is alone stops at once."`
	Components      []string   `yaml:"components" flag:"components" doc:"Components to run. With PostgreSQL any of them may run in processes of their own; with SQLite only mediaapi may be left out."`
	Memory          Bytes      `yaml:"memory" flag:"memory" doc:"Memory budget of the process (GOMEMLIMIT); caches take a share of it. 0: nine tenths of the cgroup's or machine's memory."`
	Appservices     []string   `yaml:"appservices" doc:"Registration files of application services; a * stands for any part of a file name."`

	Cluster      Cluster      `yaml:"cluster"`
	Registration Registration `yaml:"registration"`
	Accounts     Accounts     `yaml:"accounts"`
	Rooms        Rooms        `yaml:"rooms"`
	Federation   Federation   `yaml:"federation"`
	WellKnown    WellKnown    `yaml:"well_known"`
	Media        Media        `yaml:"media"`
	RateLimits   RateLimits   `yaml:"rate_limits"`
	TURN         TURN         `yaml:"turn"`
	Log          Log          `yaml:"log"`
}

// Listener is an address to serve on.
type Listener struct {
	Address string `yaml:"address" doc:"HOST:PORT; port 0 takes a free one."`
	TLS     TLS    `yaml:"tls,omitempty"`
}

// TLS makes a listener speak HTTPS.
type TLS struct {
	Certificate string `yaml:"certificate,omitempty" doc:"PEM file of the certificate chain. With it the listener speaks HTTPS; a renewed file is taken up by itself."`
	Key         string `yaml:"key,omitempty" doc:"PEM file of the certificate's private key."`
}

// Registration says who may make an account.
// Cluster says how the processes that share a PostgreSQL database find each other.
type Cluster struct {
	Heartbeat     Duration `yaml:"heartbeat" doc:"How often a process says in the database that it lives. All processes should agree."`
	Listen        string   `yaml:"listen" doc:"HOST:PORT where the other processes reach this one for the bus between them; port 0 takes a free one. Empty: a free port at the address from which this machine reaches the database. Nothing is opened while a process is alone."`
	Advertise     string   `yaml:"advertise" doc:"HOST:PORT that the others are told instead, behind a translation of addresses."`
	HTTPListen    string   `yaml:"http_listen" doc:"HOST:PORT where the other processes hand on requests that this one serves and they do not; empty: like listen."`
	HTTPAdvertise string   `yaml:"http_advertise" doc:"HOST:PORT that the others are told instead."`
	NATS          string   `yaml:"nats_url" secret:"url" doc:"nats://USER:PASSWORD@HOST:PORT of a NATS to use instead of the one that is built in."`
	DeadAfter     Duration `yaml:"dead_after" doc:"How long after its last heartbeat a process counts as dead, and others take up its share of the work. At least three heartbeats."`
}

type Registration struct {
	Mode         string   `yaml:"mode" flag:"registration" doc:"open (anybody), token (with one of the tokens) or closed."`
	Tokens       []string `yaml:"tokens" secret:"yes" doc:"Registration tokens for mode token; each may be used any number of times."`
	SharedSecret string   `yaml:"shared_secret" flag:"registration-shared-secret" secret:"yes" doc:"Lets whoever knows it make accounts by /_synapse/admin/v1/register. Empty: off."`
	Guests       bool     `yaml:"guests" doc:"Let guests register, in mode open."`
}

// Accounts is about sessions.
type Accounts struct {
	AccessTokenLifetime Duration `yaml:"access_token_lifetime" doc:"Lifetime of access tokens of clients that use refresh tokens; other clients' tokens do not expire."`
}

// Rooms is about new rooms.
type Rooms struct {
	DefaultVersion string `yaml:"default_version" doc:"Room version of new rooms."`
}

// Federation is about other servers.
type Federation struct {
	CAFile                string   `yaml:"ca_file" flag:"federation-ca" doc:"PEM file of certificate authorities to trust besides the system's, for test networks."`
	VerifyTLS             bool     `yaml:"verify_tls" doc:"Check the certificates of other servers. Off (--federation-insecure) is for test networks only."`
	AllowPrivateAddresses bool     `yaml:"allow_private_addresses" flag:"federation-allow-private-addresses" doc:"Let requests to other servers reach loopback and private addresses, for test networks."`
	TrustedNotaries       []string `yaml:"trusted_notaries" doc:"Servers asked for the signing keys of servers that cannot be reached."`
	DNSServers            []string `yaml:"dns_servers" doc:"HOST:PORT of DNS servers to ask instead of the machine's."`
}

// WellKnown is what the server says about itself under /.well-known/matrix.
type WellKnown struct {
	Client         string `yaml:"client" doc:"Base URL for clients, such as https://matrix.example.org. Empty: /.well-known/matrix/client is not served."`
	Server         string `yaml:"server" doc:"HOST:PORT for other servers. Empty: /.well-known/matrix/server is not served."`
	IdentityServer string `yaml:"identity_server" doc:"Base URL of an identity server for clients."`
	SupportPage    string `yaml:"support_page" doc:"URL of a support page, for /.well-known/matrix/support."`
	SupportContact string `yaml:"support_contact" doc:"User ID or mail address of the administrator, for /.well-known/matrix/support."`
}

// Media is about uploads and media of other servers.
type Media struct {
	MaxUpload       Bytes    `yaml:"max_upload" doc:"Largest upload, and largest file fetched from another server."`
	Path            string   `yaml:"path" doc:"Folder of media. Processes on one PostgreSQL database need one that they all see. Empty: on PostgreSQL media are in the database, so that they need none; on SQLite in the folder media in data_dir. It must stay as it was when the server was first used."`
	RemoteLifetime  Duration `yaml:"remote_lifetime" doc:"How long media of other servers is kept after somebody last looked at it; it is fetched again when it is wanted. 0: for ever."`
	LegacyDownloads bool     `yaml:"legacy_downloads" doc:"Serve media without authentication too, for clients and servers from before spec v1.11."`
}

// RateLimits slows down who asks too much.
type RateLimits struct {
	Enabled bool    `yaml:"enabled" flag:"rate-limits" doc:"Off is for benchmarks and tests."`
	Factor  float64 `yaml:"factor" doc:"Multiplies all limits."`
}

// TURN describes the TURN servers for calls.
type TURN struct {
	URIs         []string `yaml:"uris" doc:"URIs of TURN servers for calls, such as turn:turn.example.org."`
	SharedSecret string   `yaml:"shared_secret" secret:"yes" doc:"Secret shared with the TURN servers, for credentials that expire."`
	Username     string   `yaml:"username" doc:"Fixed user name, instead of a shared secret."`
	Password     string   `yaml:"password" secret:"yes" doc:"Password of username."`
	Lifetime     Duration `yaml:"lifetime" doc:"Lifetime of credentials."`
}

// Log is about the log, which goes to standard error.
type Log struct {
	Level  string `yaml:"level" flag:"log-level" doc:"error, warning, info or debug (every request)."`
	Format string `yaml:"format" flag:"log-format" doc:"text or json."`
}

// componentNames are the components of a whole server.
func componentNames() []string {
	return []string{"roomserver", "clientapi", "syncapi", "keyserver", "federationapi", "mediaapi"}
}

// Default gives the configuration of a server that nobody configured.
func Default() Config {
	return Config{
		DataDir:         "./data",
		Listeners:       []Listener{{Address: "127.0.0.1:8008"}},
		TrustedProxies:  []string{"127.0.0.0/8", "::1/128"},
		MaxRequests:     1024,
		ShutdownTimeout: Duration(20 * time.Second),
		ShutdownDelay:   Duration(7 * time.Second),
		Components:      componentNames(),
		Cluster:         Cluster{Heartbeat: Duration(time.Second), DeadAfter: Duration(4 * time.Second)},
		Registration:    Registration{Mode: "closed"},
		Accounts:        Accounts{AccessTokenLifetime: Duration(time.Hour)},
		Rooms:           Rooms{DefaultVersion: "12"},
		Federation:      Federation{VerifyTLS: true},
		Media:           Media{MaxUpload: 50 << 20, RemoteLifetime: Duration(90 * 24 * time.Hour)},
		RateLimits:      RateLimits{Enabled: true, Factor: 1},
		TURN:            TURN{Lifetime: Duration(24 * time.Hour)},
		Log:             Log{Level: "info", Format: "text"},
	}
}

// databaseURL gives the database, also where none was named.
func (c *Config) databaseURL() string {
	if c.Database != "" {
		return c.Database
	}
	return "sqlite:" + filepath.Join(c.DataDir, "weft.db")
}

// signingKeyPath gives the file of the signing key.
func (c *Config) signingKeyPath() string {
	if c.SigningKey != "" {
		return c.SigningKey
	}
	return filepath.Join(c.DataDir, "signing.key")
}

// mediaPath gives the folder of media, and of uploads on their way into the database.
func (c *Config) mediaPath() string {
	if c.Media.Path != "" {
		return c.Media.Path
	}
	return filepath.Join(c.DataDir, "media")
}
